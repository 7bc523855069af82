/* HTTP/1.1 load generator for chat completions: one thread, epoll. Prints one line of JSON.
 *   load PORT PATH BODYFILE [-c conns] [-d seconds] [-w warmup_s] [-r req_per_s] [-n requests_per_conn] [-R ramp_ms]
 *        [-t timeout_s] [-D] [-H "Name: value"]...
 * closed loop (default): every connection sends its next request when the answer is complete.
 * -r: open loop; request i is due at t0+i/r; latency is measured from the due time, so queueing is not hidden.
 * svc_us is then also given: the same from the moment of sending.
 * -n: every connection makes n requests, then stops (bounded run); -d is then only a limit.
 * -D: do not ask for [DONE] at the end of a stream.
 * Streams (an answer of type text/event-stream): time to first content chunk, delay of every chunk (arrival minus
 * the sender's CLOCK_MONOTONIC stamp "@ns#idx" in the content), order and completeness ([DONE] seen and idx 0..k-1).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct {
  float *v;
  size_t n, cap;
} vec;
static void push(vec *a, double x) {
  if (a->n == a->cap) {
    a->cap = a->cap ? a->cap * 2 : 4096;
    a->v = realloc(a->v, a->cap * sizeof(float));
  }
  a->v[a->n++] = x;
}
static int cmp(const void *a, const void *b) {
  float x = *(float *)a, y = *(float *)b;
  return (x > y) - (x < y);
}
static void show(const char *k, vec *a) {
  if (!a->n) return;
  qsort(a->v, a->n, sizeof(float), cmp);
  double s = 0;
  for (size_t i = 0; i < a->n; i++)
    s += a->v[i];
  printf(",\"%s\":{\"n\":%zu,\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}", k, a->n,
         s / a->n, a->v[a->n / 2], a->v[(size_t)(a->n * .9)], a->v[(size_t)(a->n * .99)], a->v[(size_t)(a->n * .999)],
         a->v[a->n - 1]);
}
enum { HEAD, BODY, CSIZE, CDATA, CCRLF, TRAIL };
typedef struct {
  int fd, id, busy, left, st, status, sse, close, done, next_idx, ordered;
  long long remain;
  uint64_t due, sent, first, start_at;
  int reads;
  char buf[65536];
  int n;
  char line[8192];
  int ln;
} conn;

static int port, nconn = 64, nper = 0, ramp_ms = 0;
static double dur = 5, warm = 0, rate = 0, tmo = 60;
static char *req;
static int reqlen;
static conn *cs;
static int ep;
static int *freeq;
static int nfree;
static vec lat, svc, ttft, delay, total;
static uint64_t ok, err_status, err_conn, err_incomplete, err_timeout, nchunks, nreads, bytes, started, t_meas;
static int measuring;
static int bad_status, nodone;
static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int dial(conn *c) {
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  int one = 1;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (connect(c->fd, (void *)&a, sizeof a)) {
    close(c->fd);
    c->fd = -1;
    return -1;
  }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
  return 0;
}
static void idle(conn *c) {
  c->busy = 0;
  if (rate > 0) freeq[nfree++] = c->id;
}
static void fire(conn *c, uint64_t due) {
  if (c->fd < 0 && dial(c)) {
    if (measuring) err_conn++;
    idle(c);
    return;
  }
  c->busy = 1;
  c->st = HEAD;
  c->n = 0;
  c->ln = 0;
  c->sse = 0;
  c->close = 0;
  c->done = 0;
  c->next_idx = 0;
  c->ordered = 1;
  c->first = 0;
  c->reads = 0;
  c->sent = now();
  c->due = due ? due : c->sent;
  if (measuring) started++;
  int off = 0;
  while (off < reqlen) {
    ssize_t w = send(c->fd, req + off, reqlen - off, MSG_NOSIGNAL);
    if (w < 0) {
      if (errno == EAGAIN) continue;
      break;
    }
    off += w;
  }
}
static void drop(conn *c) {
  if (c->fd >= 0) {
    close(c->fd);
    c->fd = -1;
  }
}
static void finish(conn *c, uint64_t t) {
  if (measuring) {
    if (c->status != 200) {
      err_status++;
      bad_status = c->status;
    } else if (c->sse && ((!c->done && !nodone) || !c->ordered || !c->next_idx))
      err_incomplete++;
    else {
      ok++;
      push(&lat, (t - c->due) / 1e3);
      push(&svc, (t - c->sent) / 1e3);
      if (c->sse) {
        push(&ttft, (c->first - c->sent) / 1e3);
        push(&total, (t - c->sent) / 1e3);
      }
    }
  }
  if (c->close) drop(c);
  if (c->left > 0) c->left--;
  idle(c);
}
static void sse_line(conn *c, uint64_t t) {
  if (c->ln < 6 || memcmp(c->line, "data:", 5)) return;
  c->line[c->ln] = 0;
  if (strstr(c->line, "[DONE]")) {
    c->done = 1;
    return;
  }
  char *p = strchr(c->line, '@');
  if (!p) return;
  uint64_t ts = strtoull(p + 1, &p, 10);
  int idx = *p == '#' ? atoi(p + 1) : -1;
  if (!c->first) c->first = t;
  if (idx != c->next_idx) c->ordered = 0;
  c->next_idx = idx + 1;
  if (measuring) {
    nchunks++;
    push(&delay, t > ts ? (t - ts) / 1e3 : 0);
  }
}
static void payload(conn *c, const char *p, int n, uint64_t t) {
  if (!c->sse) return;
  for (int i = 0; i < n;) {
    const char *e = memchr(p + i, '\n', n - i);
    int k = (e ? e - (p + i) : n - i);
    if (c->ln + k < (int)sizeof c->line - 1) {
      memcpy(c->line + c->ln, p + i, k);
      c->ln += k;
    }
    i += k;
    if (e) {
      sse_line(c, t);
      c->ln = 0;
      i++;
    }
  }
}
static void got(conn *c) {
  for (;;) {
    ssize_t r = recv(c->fd, c->buf + c->n, sizeof c->buf - 1 - c->n, 0);
    if (r < 0) {
      if (errno == EAGAIN || errno == EINTR) return;
      r = 0;
    }
    uint64_t t = now();
    if (r == 0) {
      drop(c);
      if (c->busy) {
        if (c->st == BODY && c->remain < 0)
          finish(c, t);
        else {
          if (measuring) {
            if (c->st == HEAD)
              err_conn++;
            else
              err_incomplete++;
          }
          if (c->left > 0) c->left--;
          idle(c);
        }
      }
      return;
    }
    bytes += r;
    c->reads++;
    if (measuring) nreads++;
    c->n += r;
    int pos = 0, fin = 0;
    while (pos < c->n || fin) {
      if (c->st == HEAD) {
        char *e = memmem(c->buf + pos, c->n - pos, "\r\n\r\n", 4);
        if (!e) break;
        *e = 0;
        char *h = c->buf + pos;
        c->status = atoi(h + 9);
        c->sse = strcasestr(h, "text/event-stream") != NULL;
        c->close = strcasestr(h, "\r\nconnection: close") != NULL;
        char *l = strcasestr(h, "\r\ncontent-length:");
        if (strcasestr(h, "\r\ntransfer-encoding: chunked"))
          c->st = CSIZE;
        else {
          c->st = BODY;
          c->remain = l ? atoll(l + 17) : -1;
          if (!l) c->close = 1;
        }
        pos = e + 4 - c->buf;
        if (c->st == BODY && c->remain == 0) {
          fin = 1;
          break;
        }
      } else if (c->st == BODY) {
        int k = c->n - pos;
        if (c->remain >= 0 && k > c->remain) k = c->remain;
        payload(c, c->buf + pos, k, t);
        pos += k;
        if (c->remain >= 0) {
          c->remain -= k;
          if (!c->remain) {
            fin = 1;
            break;
          }
        }
      } else if (c->st == CSIZE) {
        char *e = memmem(c->buf + pos, c->n - pos, "\r\n", 2);
        if (!e) break;
        c->remain = strtoll(c->buf + pos, NULL, 16);
        pos = e + 2 - c->buf;
        c->st = c->remain ? CDATA : TRAIL;
      } else if (c->st == CDATA) {
        int k = c->n - pos;
        if (k > c->remain) k = c->remain;
        payload(c, c->buf + pos, k, t);
        pos += k;
        c->remain -= k;
        if (!c->remain) c->st = CCRLF;
      } else { /* CCRLF, TRAIL */
        if (c->n - pos < 2) break;
        int end = c->st == TRAIL;
        pos += 2;
        c->st = CSIZE;
        if (end) {
          fin = 1;
          break;
        }
      }
    }
    if (fin) {
      c->n = 0;
      finish(c, t);
      return;
    }
    if (pos) memmove(c->buf, c->buf + pos, c->n - pos);
    c->n -= pos;
    if (c->n >= (int)sizeof c->buf - 1) {
      drop(c);
      if (measuring) err_incomplete++;
      idle(c);
      return;
    }
  }
}
int main(int argc, char **argv) {
  if (argc < 4) return 2;
  port = atoi(argv[1]);
  char *path = argv[2];
  char hdrs[4096] = "";
  int o;
  optind = 4;
  while ((o = getopt(argc, argv, "c:d:w:r:n:R:t:DH:")) != -1)
    switch (o) {
    case 'c':
      nconn = atoi(optarg);
      break;
    case 'd':
      dur = atof(optarg);
      break;
    case 'w':
      warm = atof(optarg);
      break;
    case 'r':
      rate = atof(optarg);
      break;
    case 'n':
      nper = atoi(optarg);
      break;
    case 'R':
      ramp_ms = atoi(optarg);
      break;
    case 't':
      tmo = atof(optarg);
      break;
    case 'D':
      nodone = 1;
      break;
    case 'H':
      strcat(hdrs, optarg);
      strcat(hdrs, "\r\n");
      break;
    }
  FILE *f = fopen(argv[3], "rb");
  static char body[1 << 20];
  int bl = fread(body, 1, sizeof body, f);
  fclose(f);
  req = malloc(bl + 8192);
  reqlen = sprintf(req,
                   "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nAccept: "
                   "application/json\r\n%sContent-Length: %d\r\n\r\n",
                   path, port, hdrs, bl);
  memcpy(req + reqlen, body, bl);
  reqlen += bl;
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
  ep = epoll_create1(0);
  struct rlimit rl = {20000, 20000};
  setrlimit(RLIMIT_NOFILE, &rl);
  cs = calloc(nconn, sizeof *cs);
  freeq = calloc(nconn + 1, sizeof(int));
  uint64_t t0 = now(), tm = t0 + (uint64_t)(warm * 1e9), tend = tm + (uint64_t)(dur * 1e9), i_open = 0;
  if (warm == 0) {
    measuring = 1;
    t_meas = t0;
  }
  for (int i = 0; i < nconn; i++) {
    cs[i].id = i;
    cs[i].fd = -1;
    cs[i].left = nper ? nper : -1;
    cs[i].start_at = t0 + (uint64_t)ramp_ms * 1000000ull * i / nconn;
    if (rate > 0) freeq[nfree++] = i;
  }
  static struct epoll_event ev[1024];
  int draining = 0;
  uint64_t last_sweep = t0, t_end_real = 0;
  for (;;) {
    uint64_t t = now();
    if (!measuring && t >= tm) {
      measuring = 1;
      t_meas = t;
    }
    if (t >= tend && !draining) {
      draining = 1;
      t_end_real = t;
      if (!nper) break;
    }
    uint64_t next = tend;
    if (rate > 0) {
      while (!draining && nfree) {
        uint64_t due = t0 + (uint64_t)(i_open * (1e9 / rate));
        if (due > t) {
          next = due;
          break;
        }
        i_open++;
        conn *c = &cs[freeq[--nfree]];
        fire(c, due);
      }
    } else {
      int open = 0;
      for (int i = 0; i < nconn; i++) {
        conn *c = &cs[i];
        if (c->busy) {
          open++;
          continue;
        }
        if (draining || c->left == 0) continue;
        open++;
        if (t >= c->start_at)
          fire(c, 0);
        else if (c->start_at < next)
          next = c->start_at;
      }
      if (!open) {
        t_end_real = now();
        break;
      }
      if (draining && t > tend + (uint64_t)(2e9)) break;
    }
    if (t - last_sweep > 500000000ull) {
      last_sweep = t;
      for (int i = 0; i < nconn; i++)
        if (cs[i].busy && t > cs[i].sent && t - cs[i].sent > tmo * 1e9) {
          drop(&cs[i]);
          if (measuring) err_timeout++;
          if (cs[i].left > 0) cs[i].left--;
          idle(&cs[i]);
        }
    }
    t = now();
    uint64_t d = next > t ? next - t : 0;
    if (d > 100000000ull) d = 100000000ull;
    struct timespec ts = {d / 1000000000ull, d % 1000000000ull};
    int k = epoll_pwait2(ep, ev, 1024, &ts, NULL);
    for (int i = 0; i < k; i++) {
      conn *c = ev[i].data.ptr;
      if (c->fd >= 0) {
        got(c);
        if (!c->busy && rate <= 0 && !nper && !draining && measuring + 1) {
          if (now() < tend) fire(c, 0);
        }
      }
    }
  }
  double el = ((t_end_real ? t_end_real : now()) - t_meas) / 1e9;
  struct rusage ru;
  getrusage(RUSAGE_SELF, &ru);
  printf("{\"elapsed_s\":%.3f,\"started\":%llu,\"ok\":%llu,\"rps\":%.1f,\"err_status\":%llu,\"bad_status\":%d,\"err_"
         "conn\":%llu,\"err_incomplete\":%llu,\"err_timeout\":%llu,\"chunks\":%llu,\"chunks_per_s\":%.0f,\"reads\":%"
         "llu,\"mb\":%.1f,\"load_cpu_s\":%.2f",
         el, (unsigned long long)started, (unsigned long long)ok, ok / el, (unsigned long long)err_status, bad_status,
         (unsigned long long)err_conn, (unsigned long long)err_incomplete, (unsigned long long)err_timeout,
         (unsigned long long)nchunks, nchunks / el, (unsigned long long)nreads, bytes / 1e6,
         ru.ru_utime.tv_sec + ru.ru_stime.tv_sec + (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6);
  show("lat_us", &lat);
  if (rate > 0) show("svc_us", &svc);
  show("ttft_us", &ttft);
  show("delay_us", &delay);
  show("stream_us", &total);
  printf("}\n");
  return 0;
}
