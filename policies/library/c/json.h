// What policies in C share: reading JSON (RFC 8259) strictly, in place. Whatever is not as it must be ends
// the policy through fail(), which the includer defines and which does not return.

#ifndef CLOISTER_JSON_H
#define CLOISTER_JSON_H

#include <stddef.h>
#include <stdint.h>

typedef struct { const uint8_t *data; uint32_t len; } slice;

#define TEXT(literal) ((slice){(const uint8_t *)literal, sizeof literal - 1})

enum { MAX_DEPTH = 64 };

static _Noreturn void fail(void);

// What is read: from at to end.

static const uint8_t *at, *end;

static __attribute__((unused)) int is(slice s, slice t) {
  if (s.len != t.len) return 0;
  for (uint32_t i = 0; i < s.len; i++)
    if (s.data[i] != t.data[i]) return 0;
  return 1;
}

static __attribute__((unused)) int starts(slice s, slice prefix) {
  return s.len >= prefix.len && is((slice){s.data, prefix.len}, prefix);
}

static __attribute__((unused)) uint8_t peek(void) {
  while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) at++;
  if (at == end) fail();
  return *at;
}

static __attribute__((unused)) int take(uint8_t c) {
  if (peek() != c) return 0;
  at++;
  return 1;
}

static __attribute__((unused)) void expect(uint8_t c) {
  if (!take(c)) fail();
}

static __attribute__((unused)) int hex(uint8_t c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

// string reads a string and returns what is between the quotes. With plain, one that holds an
// escape fails: names that this policy compares or repeats have none.
static __attribute__((unused)) slice string(int plain) {
  expect('"');
  const uint8_t *start = at;
  while (at < end && *at != '"') {
    if (*at < 0x20) fail();
    if (*at++ != '\\') continue;
    if (plain || at == end) fail();
    uint8_t c = *at++;
    if (c == 'u') {
      for (int i = 0; i < 4; i++, at++)
        if (at == end || !hex(*at)) fail();
    } else if (c != '"' && c != '\\' && c != '/' && c != 'b' && c != 'f' && c != 'n' && c != 'r' && c != 't') {
      fail();
    }
  }
  if (at == end) fail();
  return (slice){start, (uint32_t)(at++ - start)};
}

static __attribute__((unused)) int digit(void) { return at < end && *at >= '0' && *at <= '9'; }

// whole reads a whole number from 0 to 2^63-1; a sign, fraction or exponent fails.
static __attribute__((unused)) uint64_t whole(void) {
  uint64_t n = 0;
  peek();
  if (!digit() || (*at == '0' && end - at > 1 && at[1] >= '0' && at[1] <= '9')) fail();
  for (; digit(); at++) {
    uint64_t d = *at - '0';
    if (n > (INT64_MAX - d) / 10) fail();
    n = n * 10 + d;
  }
  if (at < end && (*at == '.' || *at == 'e' || *at == 'E')) fail();
  return n;
}

static __attribute__((unused)) void digits(void) {
  if (!digit()) fail();
  while (digit()) at++;
}

static __attribute__((unused)) void skip_number(void) {
  if (*at == '-') at++;
  if (at < end && *at == '0') at++;
  else digits();
  if (at < end && *at == '.') { at++; digits(); }
  if (at < end && (*at == 'e' || *at == 'E')) {
    at++;
    if (at < end && (*at == '+' || *at == '-')) at++;
    digits();
  }
}

static __attribute__((unused)) void word(slice w) {
  if ((uint32_t)(end - at) < w.len || !is((slice){at, w.len}, w)) fail();
  at += w.len;
}

// next steps to the next item of an object or array whose opening bracket was read.
static __attribute__((unused)) int next(int *first, uint8_t close) {
  if (take(close)) return 0;
  if (!*first) expect(',');
  *first = 0;
  return 1;
}

static __attribute__((unused)) slice key(void) {
  slice name = string(1);
  expect(':');
  return name;
}

static __attribute__((unused)) void skip(int depth) {
  int first = 1;
  if (depth > MAX_DEPTH) fail();
  switch (peek()) {
  case '"': string(0); return;
  case 't': word(TEXT("true")); return;
  case 'f': word(TEXT("false")); return;
  case 'n': word(TEXT("null")); return;
  case '[':
    expect('[');
    while (next(&first, ']')) skip(depth + 1);
    return;
  case '{':
    expect('{');
    while (next(&first, '}')) {
      string(0);
      expect(':');
      skip(depth + 1);
    }
    return;
  default: skip_number();
  }
}

#endif
