// NAME is a policy: outputs leave up to a number of bytes, and nothing else leaves.
// It reads one request from standard input and writes one decision to standard output. Whatever it does
// not expect ends it with status 1, which is a denial.

#include <stdio.h>
#include <stdlib.h>

#include "json.h"

static _Noreturn void fail(void) { exit(1); }

static uint8_t input[4 << 20];

enum { ABI, POINT, CONFIG, CHANNELS, ARTIFACTS, COUNT };
static const slice names[] = {TEXT("abi"), TEXT("point"), TEXT("config"), TEXT("channels"), TEXT("artifacts")};
static const uint8_t *found[COUNT]; // where the value of each begins

// locate reads the request to its end, and notes where the values are that matter.
static void locate(void) {
  int first = 1;
  expect('{');
  while (next(&first, '}')) {
    slice name = key();
    for (int i = 0; i < COUNT; i++)
      if (is(name, names[i])) found[i] = at;
    skip(0);
  }
}

static void go(int what) {
  if (!found[what]) fail();
  at = found[what];
}

static uint64_t max_bytes(void) {
  uint64_t most = 0;
  int first = 1, given = 0;
  go(CONFIG);
  expect('{');
  while (next(&first, '}')) {
    if (!is(key(), TEXT("max_bytes")) || given++) fail();
    most = whole();
  }
  if (!given) fail();
  return most;
}

// outputs prints those of the request's channels that are outputs, each with what comes after it.
static void outputs(const char *after) {
  int first = 1, some = 0;
  go(CHANNELS);
  expect('[');
  while (next(&first, ']')) {
    slice channel = string(1);
    if (starts(channel, TEXT("outputs.")))
      printf("%s\"%.*s\"%s", some++ ? "," : "", (int)channel.len, (const char *)channel.data, after);
  }
}

// too_large reports whether an artifact has more bytes; its content is at /artifact/CHANNEL.
static int too_large(uint64_t most) {
  int each = 1, found_one = 0;
  go(ARTIFACTS);
  expect('[');
  while (next(&each, ']')) {
    int first = 1;
    expect('{');
    while (next(&first, '}'))
      if (is(key(), TEXT("bytes"))) found_one |= whole() > most;
      else skip(0);
  }
  return found_one;
}

int main(void) {
  at = input;
  end = input + fread(input, 1, sizeof input, stdin);
  locate();
  go(ABI);
  if (whole() != 1) fail();
  uint64_t most = max_bytes();
  go(POINT);
  slice point = string(1);
  if (is(point, TEXT("admit"))) {
    char cap[32];
    snprintf(cap, sizeof cap, ":%llu", (unsigned long long)most);
    printf("{\"allow\":true,\"channels\":[");
    outputs("");
    printf("],\"caps\":{");
    outputs(cap);
    printf("}}");
  } else if (is(point, TEXT("ingress"))) {
    printf("{\"allow\":true}");
  } else if (is(point, TEXT("egress"))) {
    printf(too_large(most) ? "{\"allow\":false,\"code\":\"too-large\"}" : "{\"allow\":true}");
  } else {
    fail();
  }
  return fflush(stdout) ? 1 : 0;
}
