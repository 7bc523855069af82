/* Mock provider: one thread, epoll, nothing allocated per request. Speaks the dialects of dialect.c.
 *   upstream PORT
 * POST  an answer of about 1 KB, or a stream when the body has "stream":true
 * GET /__set?latency_us=0&chunks=64&gap_us=10000&burst=0   changes what later requests get
 * GET /__stats                                              counters as JSON
 * A chunk's content is "@<CLOCK_MONOTONIC ns>#<index> ", stamped just before it is written: a client on this machine can
 * tell how late each one is even when a gateway says it in other words. A late one
 * does not make those after it later. Without a gap every event is a write() of its own, or all are one with burst=1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
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

#include "clock.h"
#include "dialect.h"
#include "timers.h"

#define MOST_FDS 65536
#define MOST_IN (256 * 1024)

typedef struct {
  timer timer; /* first: a timer is its connection */
  const dialect *dialect;
  char *in, *out;
  int in_n, out_n, out_size, fd, busy, streaming, usage, index, total, wants_out;
} conn;

static conn *conns[MOST_FDS];
static int ep;
static long latency_us, gap_us, chunks = 64, burst;
static uint64_t requests, streams, sent_chunks, connections, bad, aborted;

static void drop(conn *c) {
  if (c->streaming) aborted++;
  timers_clear(&c->timer);
  close(c->fd);
  conns[c->fd] = NULL;
  free(c->in);
  free(c->out);
  free(c);
}
static int flush(conn *c) { /* 0, or -1: the connection is dead */
  int off = 0;
  while (off < c->out_n) {
    ssize_t w = send(c->fd, c->out + off, c->out_n - off, MSG_NOSIGNAL);
    if (w < 0 && errno == EINTR) continue;
    if (w < 0 && errno != EAGAIN) return -1;
    if (w < 0) break;
    off += w;
  }
  memmove(c->out, c->out + off, c->out_n - off);
  c->out_n -= off;
  if (c->wants_out != (c->out_n > 0)) {
    c->wants_out = c->out_n > 0;
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (c->wants_out ? EPOLLOUT : 0), .data.fd = c->fd};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
  }
  return 0;
}
static void put(conn *c, const char *p, int n) {
  if (c->out_n + n > c->out_size) {
    c->out_size = (c->out_n + n) * 2;
    if (!(c->out = realloc(c->out, c->out_size))) abort();
  }
  memcpy(c->out + c->out_n, p, n);
  c->out_n += n;
}
static void put_chunk(conn *c, const char *p, int n) {
  char size[16];
  put(c, size, sprintf(size, "%x\r\n", n));
  put(c, p, n);
  put(c, "\r\n", 2);
}
static void put_json(conn *c, const char *body) {
  char head[128];
  put(c, head, sprintf(head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nx-request-id: "
                             "req_mock\r\n\r\n", strlen(body)));
  put(c, body, strlen(body));
}
static void put_content(conn *c) {
  char event[LONGEST];
  int n = sprintf(event, "%s@%llu#%d %s", c->dialect->before, (unsigned long long)now_ns(), c->index++,
                  c->dialect->after);
  put_chunk(c, event, n);
  sent_chunks++;
}
static void put_ending(conn *c) {
  char events[LONGEST];
  put_chunk(c, events, sprintf(events, c->dialect->finish, c->total));
  if (c->usage && c->dialect->usage) put_chunk(c, events, sprintf(events, c->dialect->usage, c->total, c->total + 25));
  put_chunk(c, c->dialect->last, strlen(c->dialect->last));
  put(c, "0\r\n\r\n", 5);
  c->streaming = c->busy = 0;
}
static int begin_stream(conn *c) {
  static const char HEAD[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: "
                             "no-cache\r\nx-request-id: req_mock\r\nTransfer-Encoding: chunked\r\n\r\n";
  put(c, HEAD, sizeof HEAD - 1);
  put_chunk(c, c->dialect->prelude, strlen(c->dialect->prelude));
  put_content(c);
  if (gap_us) {
    timers_set(&c->timer, now_ns() + gap_us * 1000ull);
    return flush(c);
  }
  while (c->index < c->total) {
    if (!burst && flush(c)) return -1;
    put_content(c);
  }
  put_ending(c);
  return flush(c);
}
static int answer(conn *c) {
  if (c->streaming) return begin_stream(c);
  c->busy = 0;
  put_json(c, c->dialect->whole);
  return flush(c);
}
static int on_timer(conn *c) {
  uint64_t due = c->timer.due;
  timers_clear(&c->timer);
  if (!c->streaming || !c->index) return answer(c);
  if (c->index < c->total) {
    put_content(c);
    timers_set(&c->timer, due + gap_us * 1000ull);
  } else
    put_ending(c);
  return flush(c);
}
static void set(const char *query, const char *name, long *value) {
  const char *p = strstr(query, name);
  if (p) *value = atol(p + strlen(name));
}
static void control(conn *c, char *head) {
  char text[256];
  *strstr(head, " HTTP/") = 0;
  if (!strncmp(head, "GET /__set?", 11)) {
    set(head, "latency_us=", &latency_us);
    set(head, "gap_us=", &gap_us);
    set(head, "chunks=", &chunks);
    set(head, "burst=", &burst);
    put_json(c, "{}");
  } else if (!strncmp(head, "GET /__stats", 12)) {
    sprintf(text, "{\"requests\":%llu,\"streams\":%llu,\"chunks\":%llu,\"connections\":%llu,\"bad\":%llu,\"aborted\":%llu}",
            (unsigned long long)requests, (unsigned long long)streams, (unsigned long long)sent_chunks,
            (unsigned long long)connections, (unsigned long long)bad, (unsigned long long)aborted);
    put_json(c, text);
  } else /* a gateway that asks whether we are there, or which models we have */
    put_json(c, "{\"object\":\"list\",\"data\":[{\"id\":\"gpt-4o-mini\",\"object\":\"model\",\"created\":1,"
                "\"owned_by\":\"mock\"}]}");
}
static int has(const char *body, int n, const char *name, const char *value) { /* "name":value or "name": value */
  char text[64];
  return memmem(body, n, text, sprintf(text, "\"%s\":%s", name, value)) ||
         memmem(body, n, text, sprintf(text, "\"%s\": %s", name, value));
}
static int handle(conn *c, char *head, char *body, int n) {
  if (memcmp(head, "POST ", 5)) {
    control(c, head);
    return flush(c);
  }
  requests++;
  bad += !memmem(body, n, "\"messages\"", 10);
  c->dialect = dialect_of(head);
  c->streaming = has(body, n, "stream", "true");
  c->usage = has(body, n, "include_usage", "true");
  c->index = 0;
  c->total = chunks;
  c->busy = 1;
  streams += c->streaming;
  if (!latency_us) return answer(c);
  timers_set(&c->timer, now_ns() + latency_us * 1000ull);
  return 0;
}
/* How long the first request in c->in is; 0: not all of it is here. */
static int request_length(conn *c, int *head_n) {
  char *end = memmem(c->in, c->in_n, "\r\n\r\n", 4);
  if (!end) return 0;
  *head_n = end - c->in + 4;
  *end = 0; /* where strcasestr stops */
  char *length = strcasestr(c->in, "\r\ncontent-length:"), *chunked = strcasestr(c->in, "\r\ntransfer-encoding: chunked");
  int n = length ? atoi(length + 17) : 0;
  *end = '\r';
  if (chunked) {
    char *last = memmem(c->in + *head_n, c->in_n - *head_n, "0\r\n\r\n", 5);
    if (!last) return 0;
    n = last + 5 - c->in - *head_n;
  }
  return *head_n + n <= c->in_n ? *head_n + n : 0;
}
static int on_readable(conn *c) {
  ssize_t r = recv(c->fd, c->in + c->in_n, MOST_IN - 1 - c->in_n, 0);
  if (r < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (r <= 0) return -1;
  c->in_n += r;
  c->in[c->in_n] = 0;
  for (int n, head_n; !c->busy && (n = request_length(c, &head_n));) {
    if (handle(c, c->in, c->in + head_n, n - head_n)) return -1;
    memmove(c->in, c->in + n, c->in_n - n + 1);
    c->in_n -= n;
  }
  return c->in_n >= MOST_IN - 1 ? -1 : 0;
}
static void accept_all(int listener) {
  int one = 1;
  for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
    if (fd >= MOST_FDS) {
      close(fd);
      return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    conn *c = calloc(1, sizeof *c);
    *c = (conn){.fd = fd, .timer.at = -1, .out_size = 8192, .in = malloc(MOST_IN), .out = malloc(8192)};
    conns[fd] = c;
    connections++;
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = fd};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
  }
}
static int listen_on(int port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, (void *)&at, sizeof at) || listen(fd, 4096)) {
    perror("upstream");
    exit(1);
  }
  struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
  epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
  return fd;
}
int main(int argc, char **argv) {
  static struct epoll_event events[512];
  if (argc != 2) return 2;
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
  setrlimit(RLIMIT_NOFILE, &(struct rlimit){20000, 20000});
  ep = epoll_create1(0);
  int listener = listen_on(atoi(argv[1]));
  for (;;) {
    timer *first = timers_first();
    uint64_t t = now_ns();
    struct timespec wait = timespec_of(first && first->due > t ? first->due - t : 0);
    int n = epoll_pwait2(ep, events, 512, first ? &wait : NULL, NULL);
    for (int i = 0; i < n; i++) {
      conn *c = conns[events[i].data.fd];
      int dead = 0;
      if (events[i].data.fd == listener)
        accept_all(listener);
      else if (c) {
        if (events[i].events & EPOLLOUT) dead = flush(c);
        if (!dead && events[i].events & ~EPOLLOUT) dead = on_readable(c);
        if (dead) drop(c);
      }
    }
    t = now_ns();
    while ((first = timers_first()) && first->due <= t)
      if (on_timer((conn *)first)) drop((conn *)first);
  }
}
