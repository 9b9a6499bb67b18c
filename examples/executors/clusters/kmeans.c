/* kmeans: clusters points by Lloyd's algorithm, from centres that are far apart (Gonzalez): kmeans POINTS.csv K OUT.csv
 *
 * POINTS.csv has a header and two numbers a line; OUT.csv gets the centre and the size of each cluster.
 * It is built by policies/library/build-c, as a WASI command. */
#include <stdio.h>
#include <stdlib.h>

enum { most_points = 100000, most_clusters = 64, rounds = 100 };

static double x[most_points], y[most_points];
static int of[most_points];
static double cx[most_clusters], cy[most_clusters];
static int size[most_clusters];

static double distance(int point, int centre) {
  double dx = x[point] - cx[centre], dy = y[point] - cy[centre];
  return dx * dx + dy * dy;
}

static int nearest(int point, int centres) {
  int best = 0;
  for (int c = 1; c < centres; c++)
    if (distance(point, c) < distance(point, best)) best = c;
  return best;
}

static int by_x(const void *a, const void *b) {
  int i = *(const int *)a, j = *(const int *)b;
  return cx[i] < cx[j] ? -1 : cx[i] > cx[j];
}

static int fail(const char *what) {
  fprintf(stderr, "kmeans: %s\n", what);
  return 1;
}

int main(int argc, char **argv) {
  if (argc != 4) return fail("usage: kmeans POINTS.csv K OUT.csv");
  int k = atoi(argv[2]), n = 0;
  if (k < 1 || k > most_clusters) return fail("K is not 1 to 64");
  FILE *in = fopen(argv[1], "r");
  if (!in) return fail("the points cannot be read");
  if (fscanf(in, "%*[^\n]\n") == EOF) return fail("there is no header");
  while (n < most_points && fscanf(in, "%lf,%lf\n", &x[n], &y[n]) == 2) n++;
  if (!feof(in)) return fail("a line is no point, or there are too many");
  fclose(in);
  if (n < k) return fail("there are fewer points than clusters");

  cx[0] = x[0], cy[0] = y[0];
  for (int c = 1; c < k; c++) {
    int far = 0;
    for (int i = 1; i < n; i++)
      if (distance(i, nearest(i, c)) > distance(far, nearest(far, c))) far = i;
    cx[c] = x[far], cy[c] = y[far];
  }
  for (int round = 0, moved = 1; moved && round < rounds; round++) {
    moved = 0;
    for (int i = 0; i < n; i++) {
      int c = nearest(i, k);
      moved |= round == 0 || c != of[i];
      of[i] = c;
    }
    for (int c = 0; c < k; c++) {
      double sx = 0, sy = 0;
      size[c] = 0;
      for (int i = 0; i < n; i++)
        if (of[i] == c) sx += x[i], sy += y[i], size[c]++;
      if (size[c]) cx[c] = sx / size[c], cy[c] = sy / size[c];
    }
  }

  int order[most_clusters];
  for (int c = 0; c < k; c++) order[c] = c;
  qsort(order, k, sizeof *order, by_x);
  FILE *out = fopen(argv[3], "w");
  if (!out) return fail("the result cannot be written");
  fprintf(out, "x,y,size\n");
  for (int i = 0; i < k; i++) fprintf(out, "%.3f,%.3f,%d\n", cx[order[i]], cy[order[i]], size[order[i]]);
  return fclose(out) ? fail("the result cannot be written") : 0;
}
