// csv-groups: a policy in C. Outputs leave as CSV files with known columns and enough rows of each group,
// and nothing else leaves. The same policy in other languages is beside it, and all of them are held
// against fixtures/csv-groups.
//
//   admit    consents to every output of the job, never to logs or the exit status
//   ingress  allows
//   egress   denies with "not-csv", "columns", "small-group" or "many-groups"
//
// It reads JSON with the reader that policies in C share, and files as any C program does. It trusts the
// request and its own configuration, does not judge what allowed values mean, and counts rows, not people.
// Whatever it does not expect ends it with status 1, which is a denial.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../policies/library/c/json.h"

static _Noreturn void fail(void) { exit(1); }

enum {
  MAX_INPUT = 4 << 20,
  MAX_RECORD = 1 << 20, // of one row, and with it what is held of a file
  MAX_FIELDS = 65536,
  MAX_COLUMNS = 64,
  MAX_GROUPS = 10000,
  PLACES = 32768, // of the table of groups
};

// --- the configuration ---

static slice columns[MAX_COLUMNS];
static int column_count;
static slice group_by;
static uint64_t min_group;

static int hex_value(uint8_t c) { return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10; }

// put_utf8 appends a code point.
static uint8_t *put_utf8(uint8_t *to, uint32_t c) {
  if (c < 0x80) { *to++ = (uint8_t)c; return to; }
  if (c < 0x800) *to++ = (uint8_t)(0xc0 | c >> 6);
  else if (c < 0x10000) { *to++ = (uint8_t)(0xe0 | c >> 12); *to++ = (uint8_t)(0x80 | (c >> 6 & 0x3f)); }
  else { *to++ = (uint8_t)(0xf0 | c >> 18); *to++ = (uint8_t)(0x80 | (c >> 12 & 0x3f)); *to++ = (uint8_t)(0x80 | (c >> 6 & 0x3f)); }
  *to++ = (uint8_t)(0x80 | (c & 0x3f));
  return to;
}

static uint32_t code_unit(const uint8_t *from) {
  uint32_t c = 0;
  for (int i = 0; i < 4; i++) c = c << 4 | (uint32_t)hex_value(from[i]);
  return c;
}

// text reads a string and gives what it stands for.
static slice text(void) {
  slice raw = string(0);
  uint8_t *out = malloc(raw.len + 1), *to = out;
  if (!out) fail();
  for (uint32_t i = 0; i < raw.len; i++) {
    if (raw.data[i] != '\\') { *to++ = raw.data[i]; continue; }
    uint8_t c = raw.data[++i];
    if (c != 'u') {
      *to++ = c == 'b' ? '\b' : c == 'f' ? '\f' : c == 'n' ? '\n' : c == 'r' ? '\r' : c == 't' ? '\t' : c;
      continue;
    }
    uint32_t unit = code_unit(raw.data + i + 1);
    i += 4;
    if (unit >= 0xd800 && unit < 0xe000) { // a pair stands for one code point
      if (unit >= 0xdc00 || i + 6 >= raw.len || raw.data[i + 1] != '\\' || raw.data[i + 2] != 'u') fail();
      uint32_t low = code_unit(raw.data + i + 3);
      if (low < 0xdc00 || low >= 0xe000) fail();
      unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
      i += 6;
    }
    to = put_utf8(to, unit);
  }
  return (slice){out, (uint32_t)(to - out)};
}

static int column(slice name) {
  for (int i = 0; i < column_count; i++)
    if (is(columns[i], name)) return i;
  return -1;
}

static void configure(void) {
  int first = 1, listed = 0, grouped = 0, counted = 0;
  expect('{');
  while (next(&first, '}')) {
    slice name = key();
    if (is(name, TEXT("columns")) && !listed++) {
      int each = 1;
      expect('[');
      while (next(&each, ']')) {
        if (column_count == MAX_COLUMNS) fail();
        columns[column_count++] = text();
      }
    } else if (is(name, TEXT("group_by")) && !grouped++) {
      group_by = text();
    } else if (is(name, TEXT("min_group")) && !counted++) {
      min_group = whole();
    } else {
      fail();
    }
  }
  if (!listed || !grouped || !counted || column(group_by) < 0 || min_group < 1) fail();
}

// --- CSV (RFC 4180), strictly ---

static FILE *file;
static uint8_t record[MAX_RECORD];
static uint32_t ends[MAX_FIELDS], length, fields;

static slice field(uint32_t i) {
  uint32_t start = i ? ends[i - 1] : 0;
  return (slice){record + start, ends[i] - start};
}

static int keep(int c) {
  if (length == MAX_RECORD) return 0;
  record[length++] = (uint8_t)c;
  return 1;
}

static int end_field(void) {
  if (fields == MAX_FIELDS) return 0;
  ends[fields++] = length;
  return 1;
}

// line_end takes the LF of a CRLF whose CR was read; a CR at the end of the file belongs to no field.
static int line_end(int *c) {
  int after = getc(file);
  if (after == '\n' || after == EOF) { *c = after; return 1; }
  ungetc(after, file);
  return 0;
}

// read_field reads one field and what ends it: a comma, a line feed or EOF. 0: it is none.
static int read_field(int *end, int *quoted) {
  int c = getc(file);
  if (c == '"') {
    *quoted = 1;
    for (;;) {
      c = getc(file);
      if (c == EOF) return 0;
      if (c == '\r') {
        int lf = '\r';
        if (line_end(&lf)) c = lf;
        if (c == EOF) return 0;
      }
      if (c != '"') {
        if (!keep(c)) return 0;
        continue;
      }
      c = getc(file);
      if (c == '"') {
        if (!keep(c)) return 0;
        continue;
      }
      if (c == '\r' && !line_end(&c)) return 0;
      *end = c;
      return (c == ',' || c == '\n' || c == EOF) && end_field();
    }
  }
  for (;; c = getc(file)) {
    if (c == '"') return 0;
    if (c == '\r' && line_end(&c)) { *end = c; return end_field(); }
    if (c == ',' || c == '\n' || c == EOF) { *end = c; return end_field(); }
    if (!keep(c)) return 0;
  }
}

// read_row reads a row. 1: there is one, 0: there is none any more, -1: the file is no CSV file.
static int read_row(void) {
  int end, quoted;
  do {
    length = fields = 0;
    quoted = 0;
    do
      if (!read_field(&end, &quoted)) return -1;
    while (end == ',');
    if (fields > 1 || length > 0 || quoted) return 1;
  } while (end != EOF); // an empty line is no row
  return ferror(file) ? -1 : 0;
}

static int is_utf8(slice s) {
  for (uint32_t i = 0; i < s.len;) {
    uint8_t c = s.data[i++];
    if (c < 0x80) continue;
    int more = c >= 0xc2 && c < 0xe0 ? 1 : (c & 0xf0) == 0xe0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : -1;
    if (more < 0 || s.len - i < (uint32_t)more) return 0;
    uint8_t next_byte = s.data[i];
    if ((c == 0xe0 && next_byte < 0xa0) || (c == 0xed && next_byte >= 0xa0) || (c == 0xf0 && next_byte < 0x90) || (c == 0xf4 && next_byte >= 0x90)) return 0;
    while (more--)
      if ((s.data[i++] & 0xc0) != 0x80) return 0;
  }
  return 1;
}

// --- groups ---

static struct { slice value; uint64_t rows; } groups[PLACES];
static int group_count;

static int count(slice value) {
  uint32_t hash = 2166136261u;
  for (uint32_t i = 0; i < value.len; i++) hash = (hash ^ value.data[i]) * 16777619u;
  uint32_t place = hash % PLACES;
  while (groups[place].rows && !is(groups[place].value, value)) place = (place + 1) % PLACES;
  if (!groups[place].rows) {
    if (++group_count > MAX_GROUPS) return 0;
    uint8_t *copy = malloc(value.len + 1);
    if (!copy) fail();
    memcpy(copy, value.data, value.len);
    groups[place].value = (slice){copy, value.len};
  }
  groups[place].rows++;
  return 1;
}

// judge reads one artifact and gives the code that denies it, or NULL.
static const char *judge(slice channel) {
  char path[512];
  if (channel.len > 400) fail();
  snprintf(path, sizeof path, "/artifact/%.*s", (int)channel.len, (const char *)channel.data);
  file = fopen(path, "rb");
  if (!file) fail();
  setvbuf(file, NULL, _IOFBF, 1 << 16);
  if (read_row() != 1) return "not-csv";
  uint32_t width = fields, group = MAX_FIELDS;
  int seen[MAX_COLUMNS] = {0};
  for (uint32_t i = 0; i < width; i++) {
    int known = column(field(i));
    if (known < 0 || seen[known]++) return "columns";
    if (is(field(i), group_by)) group = i;
  }
  if (group == MAX_FIELDS) return "columns";
  for (int got; (got = read_row()) != 0;) {
    if (got < 0 || fields != width) return "not-csv";
    for (uint32_t i = 0; i < fields; i++)
      if (!is_utf8(field(i))) return "not-csv";
    if (!count(field(group))) return "many-groups";
  }
  if (!group_count) return "small-group";
  for (int i = 0; i < PLACES; i++)
    if (groups[i].rows && groups[i].rows < min_group) return "small-group";
  fclose(file);
  memset(groups, 0, sizeof groups);
  group_count = 0;
  return NULL;
}

// --- the points ---

static void deny(const char *code) {
  printf("{\"allow\":false,\"code\":\"%s\"}", code);
}

static void admit(void) {
  int first = 1, some = 0;
  printf("{\"allow\":true,\"channels\":[");
  expect('[');
  while (next(&first, ']')) {
    slice name = string(1);
    if (!starts(name, TEXT("outputs."))) continue;
    printf("%s\"%.*s\"", some++ ? "," : "", (int)name.len, (const char *)name.data);
  }
  printf("]}");
}

static void egress(void) {
  int each = 1;
  expect('[');
  while (next(&each, ']')) {
    slice channel = {0}, kind = {0};
    int first = 1;
    expect('{');
    while (next(&first, '}')) {
      slice name = key();
      if (is(name, TEXT("channel"))) channel = string(1);
      else if (is(name, TEXT("kind"))) kind = string(1);
      else skip(0);
    }
    if (!starts(channel, TEXT("outputs."))) fail(); // it consented to none
    const char *code = is(kind, TEXT("file")) ? judge(channel) : "not-csv";
    if (code) { deny(code); return; }
  }
  printf("{\"allow\":true}");
}

int main(void) {
  static uint8_t input[MAX_INPUT + 1];
  size_t n = fread(input, 1, sizeof input, stdin);
  if (n > MAX_INPUT || ferror(stdin)) fail();
  at = input;
  end = input + n;

  enum { ABI, POINT, CONFIG, CHANNELS, ARTIFACTS, COUNT };
  static const slice names[] = {TEXT("abi"), TEXT("point"), TEXT("config"), TEXT("channels"), TEXT("artifacts")};
  const uint8_t *found[COUNT] = {0};
  int first = 1;
  expect('{');
  while (next(&first, '}')) {
    slice name = key();
    for (int i = 0; i < COUNT; i++) {
      if (!is(name, names[i])) continue;
      if (found[i]) fail();
      found[i] = at;
    }
    skip(0);
  }
  for (int i = 0; i < ARTIFACTS; i++)
    if (!found[i]) fail();

  at = found[ABI];
  if (whole() != 1) fail();
  at = found[CONFIG];
  configure();
  at = found[POINT];
  slice point = string(1);
  if (is(point, TEXT("admit"))) {
    at = found[CHANNELS];
    admit();
  } else if (is(point, TEXT("ingress"))) {
    printf("{\"allow\":true}");
  } else if (is(point, TEXT("egress")) && found[ARTIFACTS]) {
    at = found[ARTIFACTS];
    egress();
  } else {
    fail();
  }
  return fflush(stdout) ? 1 : 0;
}
