/* HTTP/1.1 load generator for chat completions: one thread, epoll. Prints one line of JSON.
 *   load PORT PATH BODYFILE [-c connections] [-d seconds] [-w warm-up seconds] [-r requests/s] [-n requests/connection]
 *        [-R ramp ms] [-g grace seconds] [-t time-out seconds] [-D] [-H "Name: value"]...
 * Closed loop (default): every connection sends its next request when the answer is complete.
 * -r  open loop: request i is due at t0 + i/r and its latency counts from then, so queueing is not hidden; svc_us is
 *     the same from the moment of sending, `unsent` how many were due and found no free connection.
 * -n  every connection makes n requests, then stops; -d is then only a limit.
 * -R  the connections start over so many ms. -D: a stream need not end with [DONE].
 * -g  when the time is over nothing is sent any more, but for so long what runs may end; `unfinished` did not.
 * Rates count what arrived in the measured seconds; times are of requests that were due, and of chunks that were sent,
 * in them, whenever they arrived. Failures of the whole run count, warming up included:
 *   err_status (not 200), err_connection (refused, or closed before the head), err_incomplete (cut short, a chunk
 *   missing or out of order, no [DONE]), err_timeout.
 * Streams: time to the first content chunk and the delay of every chunk, from the sender's stamp "@ns#index" in it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "answer.h"
#include "clock.h"
#include "samples.h"

#define RETRY (10 * 1000 * 1000ull) /* ns that a connection rests after a failure: an error must not become a flood */

typedef struct {
  answer a; /* first: a chunk's answer is its connection */
  int fd, id, busy, left;
  uint64_t due, sent, start_at;
} conn;

static struct {
  int port, conns, per_conn, ramp_ms, no_done;
  double seconds, warm, rate, grace, timeout;
} opt = {.conns = 64, .seconds = 5, .grace = 10, .timeout = 60};

static char *request;
static int request_n, ep;
static conn *conns;
static int *idle, idle_n; /* open loop: connections without a request */
static int resting;       /* closed loop: connections that are to send at their start_at */
static int running;       /* requests without their whole answer */
static uint64_t t_begin, t_measure, t_end;
static uint64_t started, ok, ok_measured, chunks_measured, reads, bytes, due_n;
static uint64_t err_status, err_connection, err_incomplete, err_timeout, bad_status;
static samples latency, service, first, delay;

static int within(uint64_t t) { return t >= t_measure && t < t_end; }

static int dial(conn *c) {
  struct sockaddr_in to = {
      .sin_family = AF_INET, .sin_port = htons(opt.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int one = 1;
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(c->fd, (void *)&to, sizeof to)) {
    close(c->fd);
    c->fd = -1;
    return -1;
  }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
  return epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
}
static void hang_up(conn *c) {
  if (c->fd >= 0) close(c->fd);
  c->fd = -1;
}
/* The request is over; what the connection does next. */
static void release(conn *c, uint64_t start_at) {
  c->busy = 0;
  running--;
  if (c->left > 0) c->left--;
  if (opt.rate > 0)
    idle[idle_n++] = c->id;
  else if (c->left) {
    c->start_at = start_at;
    resting++;
  }
}
static void fail(conn *c, uint64_t *counter, uint64_t t) {
  ++*counter;
  hang_up(c);
  release(c, t + RETRY);
}
static void fire(conn *c, uint64_t due, uint64_t t) {
  c->busy = 1;
  running++;
  started++;
  c->sent = t;
  c->due = due ? due : t;
  answer_begin(&c->a);
  if (c->fd < 0 && dial(c)) {
    fail(c, &err_connection, t);
    return;
  }
  for (int off = 0; off < request_n;) {
    ssize_t w = send(c->fd, request + off, request_n - off, MSG_NOSIGNAL);
    if (w < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (w < 0) {
      fail(c, &err_connection, t);
      return;
    }
    off += w;
  }
}
static void on_content(answer *a, uint64_t sent, uint64_t came) {
  (void)a;
  if (within(came)) chunks_measured++;
  if (within(sent)) samples_add(&delay, came > sent ? (came - sent) / 1e3 : 0);
}
static void finish(conn *c, uint64_t t) {
  if (c->a.status != 200) {
    bad_status = c->a.status;
    fail(c, &err_status, t);
    return;
  }
  if (!answer_whole(&c->a, opt.no_done)) {
    fail(c, &err_incomplete, t);
    return;
  }
  ok++;
  if (within(t)) ok_measured++;
  if (within(c->due)) {
    samples_add(&latency, (t - c->due) / 1e3);
    samples_add(&service, (t - c->sent) / 1e3);
    if (c->a.sse) samples_add(&first, (c->a.first - c->sent) / 1e3);
  }
  if (c->a.closes) hang_up(c);
  release(c, t);
}
static void on_readable(conn *c) {
  ssize_t r = recv(c->fd, c->a.buffer + c->a.held, sizeof c->a.buffer - 1 - c->a.held, 0);
  if (r < 0 && (errno == EAGAIN || errno == EINTR)) return;
  uint64_t t = now_ns();
  if (!c->busy) { /* an idle connection ends, or says what nobody asked for */
    hang_up(c);
    return;
  }
  enum result result;
  if (r <= 0)
    result = answer_closed(&c->a);
  else {
    bytes += r;
    reads++;
    result = answer_feed(&c->a, r, t, on_content);
  }
  if (r <= 0 && result == COMPLETE) c->a.closes = 1;
  if (result == COMPLETE)
    finish(c, t);
  else if (result == BROKEN)
    fail(c, c->a.status ? &err_incomplete : &err_connection, t);
}

/* Sends what is due; returns when something is due next. */
static uint64_t send_due(uint64_t t) {
  static uint64_t last;
  uint64_t next = t_end;
  if (t >= t_end) return UINT64_MAX;
  if (opt.rate > 0) {
    for (;;) {
      uint64_t due = t_begin + (uint64_t)(due_n * (SECOND / opt.rate));
      if (due > t) return due < next ? due : next;
      if (!idle_n) return next;
      due_n++;
      fire(&conns[idle[--idle_n]], due, t);
    }
  }
  if (!resting) return next;
  if (t - last < 100000 && running) return t + 100000; /* look through them every 0.1 ms at most */
  last = t;
  for (int i = 0; i < opt.conns && resting; i++) {
    conn *c = &conns[i];
    if (c->busy || !c->left) continue;
    if (c->start_at <= t) {
      resting--;
      fire(c, 0, t);
    } else if (c->start_at < next)
      next = c->start_at;
  }
  return next;
}
static void time_out(uint64_t t) {
  static uint64_t last;
  if (t - last < SECOND / 10) return;
  last = t;
  for (int i = 0; i < opt.conns; i++)
    if (conns[i].busy && t > conns[i].sent && t - conns[i].sent > opt.timeout * 1e9) fail(&conns[i], &err_timeout, t);
}
static void run(void) {
  static struct epoll_event events[1024];
  for (;;) {
    uint64_t t = now_ns(), next = send_due(t), limit = t_end + (uint64_t)(opt.grace * 1e9);
    if (!running && (t >= t_end || (opt.rate <= 0 && !resting))) return;
    if (t >= limit) return;
    time_out(t);
    uint64_t wait = next > t ? next - t : 0;
    struct timespec ts = timespec_of(wait < SECOND / 10 ? wait : SECOND / 10);
    int n = epoll_pwait2(ep, events, 1024, &ts, NULL);
    for (int i = 0; i < n; i++) {
      conn *c = events[i].data.ptr;
      if (c->fd < 0) continue;
      on_readable(c);
      if (!c->busy && opt.rate <= 0 && c->left && c->fd >= 0 && resting) { /* at once: its answer was whole */
        uint64_t now = now_ns();
        if (now < t_end) {
          resting--;
          fire(c, 0, now);
        }
      }
    }
  }
}
static void prepare(const char *path, const char *file, const char *headers) {
  static char body[1 << 20];
  FILE *f = fopen(file, "rb");
  if (!f) {
    perror(file);
    exit(2);
  }
  int n = fread(body, 1, sizeof body, f);
  fclose(f);
  request = malloc(n + 8192);
  request_n = sprintf(request,
                      "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nAccept: "
                      "application/json\r\n%sContent-Length: %d\r\n\r\n",
                      path, opt.port, headers, n);
  memcpy(request + request_n, body, n);
  request_n += n;
}
static void report(void) {
  struct rusage ru;
  getrusage(RUSAGE_SELF, &ru);
  uint64_t t = now_ns(), until = t < t_end ? t : t_end, unsent = 0;
  double measured = (until - t_measure) / 1e9;
  if (opt.rate > 0 && (t_end - t_begin) / 1e9 * opt.rate > due_n) unsent = (t_end - t_begin) / 1e9 * opt.rate - due_n;
  const struct {
    const char *name;
    uint64_t n;
  } counts[] = {{"started", started},         {"ok", ok},
                {"bad_status", bad_status},   {"err_status", err_status},
                {"err_connection", err_connection}, {"err_incomplete", err_incomplete},
                {"err_timeout", err_timeout}, {"unfinished", running},
                {"unsent", unsent},           {"chunks", chunks_measured},
                {"reads", reads},             {"bytes", bytes}};
  printf("{\"measured_s\":%.3f,\"rps\":%.1f,\"chunks_per_s\":%.0f,\"load_cpu_s\":%.2f", measured,
         ok_measured / measured, chunks_measured / measured,
         ru.ru_utime.tv_sec + ru.ru_stime.tv_sec + (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6);
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
    printf(",\"%s\":%llu", counts[i].name, (unsigned long long)counts[i].n);
  samples_print("lat_us", &latency);
  if (opt.rate > 0) samples_print("svc_us", &service);
  samples_print("ttft_us", &first);
  samples_print("delay_us", &delay);
  printf("}\n");
}
int main(int argc, char **argv) {
  char headers[4096] = "";
  if (argc < 4) return 2;
  opt.port = atoi(argv[1]);
  optind = 4;
  for (int o; (o = getopt(argc, argv, "c:d:w:r:n:R:g:t:DH:")) != -1;) switch (o) {
    case 'c': opt.conns = atoi(optarg); break;
    case 'd': opt.seconds = atof(optarg); break;
    case 'w': opt.warm = atof(optarg); break;
    case 'r': opt.rate = atof(optarg); break;
    case 'n': opt.per_conn = atoi(optarg); break;
    case 'R': opt.ramp_ms = atoi(optarg); break;
    case 'g': opt.grace = atof(optarg); break;
    case 't': opt.timeout = atof(optarg); break;
    case 'D': opt.no_done = 1; break;
    case 'H':
      if (strlen(headers) + strlen(optarg) + 3 > sizeof headers) return 2;
      strcat(strcat(headers, optarg), "\r\n");
      break;
    default: return 2;
    }
  prepare(argv[2], argv[3], headers);
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
  setrlimit(RLIMIT_NOFILE, &(struct rlimit){20000, 20000});
  ep = epoll_create1(0);
  conns = calloc(opt.conns, sizeof *conns);
  idle = calloc(opt.conns, sizeof *idle);
  t_begin = now_ns();
  t_measure = t_begin + (uint64_t)(opt.warm * 1e9);
  t_end = t_measure + (uint64_t)(opt.seconds * 1e9);
  for (int i = 0; i < opt.conns; i++) {
    conns[i] = (conn){.fd = -1, .id = i, .left = opt.per_conn ? opt.per_conn : -1};
    conns[i].start_at = t_begin + (uint64_t)opt.ramp_ms * 1000000ull * i / opt.conns;
    if (opt.rate > 0) idle[idle_n++] = i;
  }
  if (opt.rate <= 0) resting = opt.conns;
  run();
  report();
  return 0;
}
