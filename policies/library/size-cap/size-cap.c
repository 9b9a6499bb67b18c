// size-cap: a policy that lets outputs leave, and nothing else, up to a number of bytes.
//
//   admit    consents to every output of the job, never to logs or the exit status
//   ingress  allows
//   egress   denies with "too-large" if the artifacts together are over max_total_bytes,
//            with "channel" if one of them is no output
//
// It needs no libc: three functions of WASI preview 1, and JSON read strictly. Whatever it
// does not expect ends it with status 1, which is a denial.

#include "../c/json.h"

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))
WASI(fd_read) int32_t wasi_read(int32_t fd, const void *vectors, uint32_t count, uint32_t *done);
WASI(fd_write) int32_t wasi_write(int32_t fd, const void *vectors, uint32_t count, uint32_t *done);
WASI(proc_exit) _Noreturn void wasi_exit(uint32_t status);

static _Noreturn void fail(void) { wasi_exit(1); }

// What `cloister policy pack` does for other languages: the manifest as a custom section.
__asm__(".section .custom_section.cloister.policy,\"\",@\n.incbin \"manifest.json\"\n.text\n");

// --- input: the whole of standard input, at the end of the linear memory ---

enum { PAGE = 65536, MAX_INPUT = 4 * 1024 * 1024 };

extern uint8_t __heap_base;

static slice read_all(void) {
  uint8_t *base = &__heap_base;
  uint32_t have = 0;
  for (;;) {
    uint32_t room = __builtin_wasm_memory_size(0) * PAGE - (uint32_t)(uintptr_t)base - have;
    if (room == 0) {
      if (have >= MAX_INPUT || __builtin_wasm_memory_grow(0, 1) == (size_t)-1) fail();
      continue;
    }
    struct { uint8_t *data; uint32_t len; } into = {base + have, room};
    uint32_t done = 0;
    if (wasi_read(0, &into, 1, &done) != 0 || done > room) fail();
    if (done == 0) return (slice){base, have};
    have += done;
  }
}

// --- output ---

static uint8_t out[16384];
static uint32_t out_len;

static void put(slice s) {
  if (s.len > sizeof out - out_len) fail();
  for (uint32_t i = 0; i < s.len; i++) out[out_len++] = s.data[i];
}

static void put_number(uint64_t n) {
  uint8_t digits[20];
  uint32_t at = sizeof digits;
  do digits[--at] = '0' + (uint8_t)(n % 10); while (n /= 10);
  put((slice){digits + at, sizeof digits - at});
}

static _Noreturn void answer(void) {
  uint32_t sent = 0;
  while (sent < out_len) {
    struct { const uint8_t *data; uint32_t len; } from = {out + sent, out_len - sent};
    uint32_t done = 0;
    if (wasi_write(1, &from, 1, &done) != 0 || done == 0 || done > from.len) fail();
    sent += done;
  }
  wasi_exit(0);
}

static _Noreturn void deny(slice code) {
  out_len = 0;
  put(TEXT("{\"allow\":false,\"code\":\""));
  put(code);
  put(TEXT("\"}"));
  answer();
}

static _Noreturn void allow(void) {
  out_len = 0;
  put(TEXT("{\"allow\":true}"));
  answer();
}

// --- the policy ---

static const uint8_t *seen_at[5]; // where each value that matters begins; NULL if it is missing

enum { ABI, POINT, CONFIG, CHANNELS, ARTIFACTS };

// locate notes where the values of the request are that matter, and reads it to its end.
static void locate(void) {
  static const slice names[] = {TEXT("abi"), TEXT("point"), TEXT("config"), TEXT("channels"), TEXT("artifacts")};
  int first = 1;
  expect('{');
  while (next(&first, '}')) {
    slice name = key();
    for (int i = 0; i <= ARTIFACTS; i++) {
      if (!is(name, names[i])) continue;
      if (seen_at[i]) fail();
      seen_at[i] = at;
    }
    skip(0);
  }
  while (at < end)
    if (*at != ' ' && *at != '\n' && *at != '\t' && *at != '\r') fail();
    else at++;
}

static void go(int what) {
  if (!seen_at[what]) fail();
  at = seen_at[what];
}

static uint64_t config_limit(void) {
  uint64_t limit = 0;
  int first = 1, given = 0;
  go(CONFIG);
  expect('{');
  while (next(&first, '}')) {
    if (!is(key(), TEXT("max_total_bytes")) || given++) fail();
    limit = whole();
  }
  if (!given) fail();
  return limit;
}

// list writes the outputs among the request's channels, each followed by what comes after it.
static void list(slice after, const uint64_t *number) {
  int first = 1, some = 0;
  go(CHANNELS);
  expect('[');
  while (next(&first, ']')) {
    slice name = string(1);
    if (!starts(name, TEXT("outputs."))) continue;
    if (some++) put(TEXT(","));
    put(TEXT("\""));
    put(name);
    put(TEXT("\""));
    put(after);
    if (number) put_number(*number);
  }
}

static _Noreturn void admit(uint64_t limit) {
  put(TEXT("{\"allow\":true,\"channels\":["));
  list(TEXT(""), NULL);
  put(TEXT("],\"caps\":{"));
  list(TEXT(":"), &limit);
  put(TEXT("}}"));
  answer();
}

static _Noreturn void egress(uint64_t limit) {
  uint64_t total = 0;
  int each = 1;
  go(ARTIFACTS);
  expect('[');
  while (next(&each, ']')) {
    int first = 1, named = 0, sized = 0;
    expect('{');
    while (next(&first, '}')) {
      slice name = key();
      if (is(name, TEXT("channel"))) {
        if (named++) fail();
        if (!starts(string(1), TEXT("outputs."))) deny(TEXT("channel"));
      } else if (is(name, TEXT("bytes"))) {
        if (sized++) fail();
        uint64_t bytes = whole();
        if (bytes > limit || total > limit - bytes) deny(TEXT("too-large"));
        total += bytes;
      } else {
        skip(0);
      }
    }
    if (!named || !sized) fail();
  }
  allow();
}

__attribute__((export_name("_start"))) void start(void) {
  slice request = read_all();
  at = request.data;
  end = at + request.len;
  locate();
  go(ABI);
  if (whole() != 1) fail();
  uint64_t limit = config_limit();
  go(POINT);
  slice point = string(1);
  if (is(point, TEXT("admit"))) admit(limit);
  if (is(point, TEXT("ingress"))) allow();
  if (is(point, TEXT("egress"))) egress(limit);
  fail();
}
