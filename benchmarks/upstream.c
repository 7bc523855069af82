/* Mock OpenAI-compatible provider: one thread, epoll, no allocation per request on the hot path.
 *   upstream PORT
 * POST <anything containing "chat/completions">  fixed ~1 KB completion, or SSE when the body has "stream":true
 * GET  /__set?latency_ms=50&chunks=64&gap_ms=10&burst=0   change behaviour for every later request
 * GET  /__stats                                           counters as JSON (and "reset=1" to zero them)
 * Stream content is "@<CLOCK_MONOTONIC ns>#<index> ", so a client on this machine can compute the relay delay
 * of every chunk even when a gateway re-serialises it. gap_ms=0 and burst=1: whole stream in one write();
 * gap_ms=0 and burst=0: one write() per event, back to back. gap_us is accepted as well.
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
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAXFD 65536
#define INBUF (256 * 1024)

typedef struct {
  char *in;
  int inlen;
  char *out;
  int outlen, outcap;
  int fd, sending, idx, total, usage, heap_pos, want_out, streaming;
  uint64_t due;
} conn;

static conn *conns[MAXFD];
static conn *heap[MAXFD];
static int heap_n;
static int ep;
static long latency_us = 0, gap_us = 0, chunks = 64, burst = 0;
static uint64_t n_req, n_stream, n_chunk, n_conn, n_bad, n_aborted;
static char unary[4096];
static int unary_len;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* ---- timers: binary heap on conn.due ---- */
static void hswap(int a, int b) {
  conn *t = heap[a];
  heap[a] = heap[b];
  heap[b] = t;
  heap[a]->heap_pos = a;
  heap[b]->heap_pos = b;
}
static void hup(int i) {
  while (i && heap[(i - 1) / 2]->due > heap[i]->due) {
    hswap(i, (i - 1) / 2);
    i = (i - 1) / 2;
  }
}
static void hdown(int i) {
  for (;;) {
    int l = 2 * i + 1, m = i;
    if (l < heap_n && heap[l]->due < heap[m]->due) m = l;
    if (l + 1 < heap_n && heap[l + 1]->due < heap[m]->due) m = l + 1;
    if (m == i) return;
    hswap(i, m);
    i = m;
  }
}
static void hadd(conn *c, uint64_t due) {
  c->due = due;
  c->heap_pos = heap_n;
  heap[heap_n++] = c;
  hup(c->heap_pos);
}
static void hdel(conn *c) {
  int i = c->heap_pos;
  if (i < 0) return;
  heap_n--;
  if (i != heap_n) {
    heap[i] = heap[heap_n];
    heap[i]->heap_pos = i;
    hup(i);
    hdown(heap[i]->heap_pos);
  }
  c->heap_pos = -1;
}

static void closec(conn *c) {
  if (c->streaming) n_aborted++;
  hdel(c);
  close(c->fd);
  conns[c->fd] = NULL;
  free(c->in);
  free(c->out);
  free(c);
}
static void arm(conn *c, int out) {
  if (c->want_out == out) return;
  c->want_out = out;
  struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (out ? EPOLLOUT : 0), .data.fd = c->fd};
  epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}
static int flushc(conn *c) { /* 0 ok, -1 dead */
  int off = 0;
  while (off < c->outlen) {
    ssize_t w = send(c->fd, c->out + off, c->outlen - off, MSG_NOSIGNAL);
    if (w < 0) {
      if (errno == EAGAIN) break;
      if (errno == EINTR) continue;
      return -1;
    }
    off += w;
  }
  if (off && off < c->outlen) memmove(c->out, c->out + off, c->outlen - off);
  c->outlen -= off;
  arm(c, c->outlen > 0);
  return 0;
}
static void put(conn *c, const char *p, int n) {
  if (c->outlen + n > c->outcap) {
    c->outcap = (c->outlen + n) * 2;
    c->out = realloc(c->out, c->outcap);
  }
  memcpy(c->out + c->outlen, p, n);
  c->outlen += n;
}
static const char PRE[] =
    "data: "
    "{\"id\":\"chatcmpl-mock0000000000000000000001\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
    "\"model\":\"gpt-4o-mini\",\"system_fingerprint\":\"fp_mock\",\"choices\":[";
static void event(conn *c, const char *body, int n) {
  char h[16];
  int k = sprintf(h, "%x\r\n", n);
  put(c, h, k);
  put(c, body, n);
  put(c, "\r\n", 2);
}
/* event number idx: 0 = role, 1..total = content, total+1 = finish, total+2 = usage (if asked) , then DONE */
static int next_event(conn *c) { /* 1 when the stream has ended */
  char b[1024];
  int n;
  if (c->idx == 0)
    n = sprintf(b,
                "%s{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_"
                "reason\":null}]}\n\n",
                PRE);
  else if (c->idx <= c->total) {
    n = sprintf(b,
                "%s{\"index\":0,\"delta\":{\"content\":\"@%llu#%d \"},\"logprobs\":null,\"finish_reason\":null}]}\n\n",
                PRE, (unsigned long long)now_ns(), c->idx - 1);
    n_chunk++;
  } else if (c->idx == c->total + 1)
    n = sprintf(b, "%s{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n", PRE);
  else if (c->idx == c->total + 2 && c->usage)
    n = sprintf(b, "%s],\"usage\":{\"prompt_tokens\":25,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n", PRE,
                c->total, c->total + 25);
  else {
    event(c, "data: [DONE]\n\n", 14);
    put(c, "0\r\n\r\n", 5);
    c->streaming = 0;
    c->sending = 0;
    return 1;
  }
  event(c, b, n);
  c->idx++;
  return 0;
}
static void respond(conn *c) {
  if (!c->streaming) {
    put(c, unary, unary_len);
    c->sending = 0;
    flushc(c);
    return;
  }
  static const char H[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: "
                          "no-cache\r\nx-request-id: req_mock\r\nTransfer-Encoding: chunked\r\n\r\n";
  put(c, H, sizeof H - 1);
  if (gap_us == 0) {
    if (burst) {
      while (!next_event(c))
        ;
      flushc(c);
    } else {
      int end;
      do {
        end = next_event(c);
        if (flushc(c) < 0) {
          closec(c);
          return;
        }
      } while (!end);
    }
    return;
  }
  next_event(c);
  next_event(c);
  if (flushc(c) < 0) {
    closec(c);
    return;
  }
  hadd(c, now_ns() + gap_us * 1000ull);
}
static void on_timer(conn *c) {
  hdel(c);
  if (!c->streaming || (c->idx == 0)) {
    respond(c);
    return;
  }
  uint64_t due = c->due;
  int end = next_event(c);
  if (!end && c->idx > c->total)
    while (!(end = next_event(c)))
      ; /* finish, usage, DONE leave together */
  if (flushc(c) < 0) {
    closec(c);
    return;
  }
  if (!end) hadd(c, due + gap_us * 1000ull);
}
static void plain(conn *c, const char *s) {
  char b[2048];
  int n =
      sprintf(b, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(s), s);
  put(c, b, n);
  flushc(c);
}
static long qp(const char *q, const char *k, long d) {
  const char *p = strstr(q, k);
  return p ? atol(p + strlen(k)) : d;
}
static void handle(conn *c, char *head, int hlen, char *body, int blen) {
  (void)hlen;
  if (!memcmp(head, "GET /__set?", 11)) {
    char q[256];
    int i = 0;
    for (char *p = head + 10; *p != ' ' && i < 255; p++)
      q[i++] = *p;
    q[i] = 0;
    latency_us = strstr(q, "latency_us=") ? qp(q, "latency_us=", 0) : qp(q, "latency_ms=", latency_us / 1000) * 1000;
    gap_us = strstr(q, "gap_us=") ? qp(q, "gap_us=", 0) : qp(q, "gap_ms=", gap_us / 1000) * 1000;
    chunks = qp(q, "chunks=", chunks);
    burst = qp(q, "burst=", burst);
    plain(c, "{\"ok\":true}");
    return;
  }
  if (!memcmp(head, "GET /__stats", 12)) {
    char b[512];
    sprintf(b,
            "{\"requests\":%llu,\"streams\":%llu,\"chunks\":%llu,\"connections\":%llu,\"bad\":%llu,\"aborted\":%llu}",
            (unsigned long long)n_req, (unsigned long long)n_stream, (unsigned long long)n_chunk,
            (unsigned long long)n_conn, (unsigned long long)n_bad, (unsigned long long)n_aborted);
    plain(c, b);
    if (strstr(head, "reset=1")) n_req = n_stream = n_chunk = n_conn = n_bad = n_aborted = 0;
    return;
  }
  if (memcmp(head, "POST ", 5)) {
    plain(c, "{\"object\":\"list\",\"data\":[{\"id\":\"gpt-4o-mini\",\"object\":\"model\",\"created\":1,\"owned_by\":"
             "\"mock\"}]}");
    return;
  }
  n_req++;
  c->streaming = memmem(body, blen, "\"stream\":true", 13) || memmem(body, blen, "\"stream\": true", 14);
  c->usage = c->streaming &&
             (memmem(body, blen, "\"include_usage\":true", 20) || memmem(body, blen, "\"include_usage\": true", 21));
  if (!memmem(body, blen, "\"messages\"", 10)) n_bad++;
  c->idx = 0;
  c->total = chunks;
  c->sending = 1;
  if (c->streaming) n_stream++;
  if (latency_us)
    hadd(c, now_ns() + latency_us * 1000ull);
  else
    respond(c);
}
static void on_read(conn *c) {
  ssize_t r = recv(c->fd, c->in + c->inlen, INBUF - 1 - c->inlen, 0);
  if (r == 0 || (r < 0 && errno != EAGAIN && errno != EINTR)) {
    closec(c);
    return;
  }
  if (r < 0) return;
  c->inlen += r;
  c->in[c->inlen] = 0;
  int fd = c->fd;
  while (c->inlen && !c->sending) {
    char *e = memmem(c->in, c->inlen, "\r\n\r\n", 4);
    if (!e) {
      if (c->inlen >= INBUF - 1) closec(c);
      return;
    }
    int hlen = e - c->in + 4, blen = 0, chunked = 0;
    *e = 0;
    char *p = strcasestr(c->in, "\r\ncontent-length:");
    if (p) blen = atoi(p + 17);
    p = strcasestr(c->in, "\r\ntransfer-encoding: chunked");
    chunked = p != NULL;
    *e = '\r';
    if (chunked) {
      char *z = memmem(c->in + hlen, c->inlen - hlen, "0\r\n\r\n", 5);
      if (!z) return;
      blen = z + 5 - (c->in + hlen);
    }
    if (c->inlen < hlen + blen) {
      if (hlen + blen > INBUF - 1) closec(c);
      return;
    }
    handle(c, c->in, hlen, c->in + hlen, blen);
    if (conns[fd] != c) return;
    int used = hlen + blen;
    memmove(c->in, c->in + used, c->inlen - used);
    c->inlen -= used;
    c->in[c->inlen] = 0;
  }
}
int main(int argc, char **argv) {
  int port = argc > 1 ? atoi(argv[1]) : 18000;
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
  char text[800];
  int n = 0;
  while (n < 560)
    n += sprintf(text + n, "The gateway forwards this answer unchanged; ");
  char body[2048];
  int bl = sprintf(
      body,
      "{\"id\":\"chatcmpl-mock0000000000000000000001\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":"
      "\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\",\"refusal\":"
      "null,\"annotations\":[]},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":25,\"completion_tokens\":110,"
      "\"total_tokens\":135,\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},\"completion_tokens_"
      "details\":{\"reasoning_tokens\":0,\"audio_tokens\":0,\"accepted_prediction_tokens\":0,\"rejected_prediction_"
      "tokens\":0}},\"service_tier\":\"default\",\"system_fingerprint\":\"fp_mock\"}",
      text);
  unary_len = sprintf(unary,
                      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nx-request-id: "
                      "req_mock\r\nopenai-processing-ms: 1\r\n\r\n%s",
                      bl, body);
  int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
  setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(ls, (void *)&a, sizeof a) || listen(ls, 4096)) {
    perror("bind");
    return 1;
  }
  ep = epoll_create1(0);
  struct epoll_event ev = {.events = EPOLLIN, .data.fd = ls};
  epoll_ctl(ep, EPOLL_CTL_ADD, ls, &ev);
  static struct epoll_event evs[512];
  for (;;) {
    struct timespec ts, *tp = NULL;
    if (heap_n) {
      uint64_t t = now_ns(), d = heap[0]->due > t ? heap[0]->due - t : 0;
      ts.tv_sec = d / 1000000000ull;
      ts.tv_nsec = d % 1000000000ull;
      tp = &ts;
    }
    int k = epoll_pwait2(ep, evs, 512, tp, NULL);
    for (int i = 0; i < k; i++) {
      int fd = evs[i].data.fd;
      if (fd == ls) {
        for (int j = 0; j < 64; j++) {
          int s = accept4(ls, NULL, NULL, SOCK_NONBLOCK);
          if (s < 0) break;
          if (s >= MAXFD) {
            close(s);
            break;
          }
          setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          conn *c = calloc(1, sizeof *c);
          c->in = malloc(INBUF);
          c->outcap = 8192;
          c->out = malloc(c->outcap);
          c->fd = s;
          c->heap_pos = -1;
          conns[s] = c;
          n_conn++;
          struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = s};
          epoll_ctl(ep, EPOLL_CTL_ADD, s, &e);
        }
        continue;
      }
      conn *c = conns[fd];
      if (!c) continue;
      if (evs[i].events & EPOLLOUT) {
        if (flushc(c) < 0) {
          closec(c);
          continue;
        }
      }
      if (evs[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) on_read(c);
    }
    uint64_t t = now_ns();
    while (heap_n && heap[0]->due <= t)
      on_timer(heap[0]);
  }
}
