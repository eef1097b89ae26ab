/*
 * netd for C: sockets over netd, as a small static library (libnetd_c.a; link with -lpthread -ldl -lm).
 *
 * Functions that return a pointer return NULL, and those that return a number -1, when they fail; netd_error() then says why,
 * in a sentence, and netd_errno() as a number of errno.h. All but the close functions may be called from any thread, and on
 * the same handle from several; one handle must not be closed while it is in use.
 *
 * The descriptor of each handle may be polled (POLLIN, POLLOUT), and stays the handle's: do not close it.
 *
 * Deadlines are moments of netd_clock_ms(), in milliseconds; NETD_NEVER is none. A call whose deadline has passed fails with
 * ETIMEDOUT and has done nothing.
 */
#ifndef NETD_H
#define NETD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Room for any IP address as text, with its NUL. */
#define NETD_ADDRESS_BYTES 46
/* No deadline. */
#define NETD_NEVER INT64_MAX

typedef struct netd_stream netd_stream;
typedef struct netd_listener netd_listener;
typedef struct netd_udp netd_udp;

/* An IP address as text, and a port. */
typedef struct {
    char address[NETD_ADDRESS_BYTES];
    uint16_t port;
} netd_endpoint;

/* Why the last call on this thread that failed did. Valid until the next call on this thread; never NULL. */
const char *netd_error(void);

/* The same as a number of errno.h: ECONNREFUSED, ETIMEDOUT, EACCES (no grant, or devnet off), EIO and so on; 0 before the first. */
int netd_errno(void);

/* The clock of deadlines: milliseconds of CLOCK_MONOTONIC. */
int64_t netd_clock_ms(void);

/* ---- TCP ---- */

/* Connects to a name or an address. timeout_ms is for all of it; 0 means netd's own: 10 seconds.
 * A grant for a name may demand TLS: then the first bytes written must be a ClientHello for that very name, or the stream is cut
 * (netd_errno() is EACCES). */
netd_stream *netd_tcp_connect(const char *host, uint16_t port, uint32_t timeout_ms);

/* Waits for data. 0 is the peer's orderly end and only that: data cut short is -1. */
ssize_t netd_stream_read(netd_stream *stream, void *buffer, size_t len);

/* As netd_stream_read, and leaves the data there. */
ssize_t netd_stream_peek(netd_stream *stream, void *buffer, size_t len);

/* Waits until some of it is written, and returns how much; 0 only for len 0. Never a signal. */
ssize_t netd_stream_write(netd_stream *stream, const void *buffer, size_t len);

/* Says that nothing more will be written; reading goes on. */
int netd_stream_shutdown_write(netd_stream *stream);

void netd_stream_set_read_deadline(netd_stream *stream, int64_t deadline_ms);
void netd_stream_set_write_deadline(netd_stream *stream, int64_t deadline_ms);

/* Whether reading and writing fail with EAGAIN where they would wait. */
void netd_stream_set_nonblocking(netd_stream *stream, int nonblocking);

/* Whether small segments leave at once, as they do from the start. */
int netd_stream_set_nodelay(netd_stream *stream, int nodelay);

/* After how many seconds in silence the peer is asked whether it is there; 0 never asks. */
int netd_stream_set_keepalive(netd_stream *stream, uint32_t idle_seconds);

/* How many seconds the stream, once closed, may go on to deliver what was written; 0 makes closing a reset. */
int netd_stream_set_linger(netd_stream *stream, uint32_t seconds);

/* The time to live, or hop limit, of what is sent from now on; 64 at first. */
int netd_stream_set_ttl(netd_stream *stream, uint8_t ttl);

netd_endpoint netd_stream_local(const netd_stream *stream);
netd_endpoint netd_stream_peer(const netd_stream *stream);
int netd_stream_fd(const netd_stream *stream);

/* Ends the stream. What was written still goes out. NULL is allowed, here and below. */
void netd_stream_close(netd_stream *stream);

/* Listens on a port; 0 lets netd choose. */
netd_listener *netd_tcp_listen(uint16_t port);

/* The same, on one of netd's addresses alone. */
netd_listener *netd_tcp_listen_on(const char *address, uint16_t port);

/* Waits for the next connection. */
netd_stream *netd_tcp_accept(netd_listener *listener);

void netd_listener_set_deadline(netd_listener *listener, int64_t deadline_ms);
void netd_listener_set_nonblocking(netd_listener *listener, int nonblocking);
uint16_t netd_listener_port(const netd_listener *listener);
int netd_listener_fd(const netd_listener *listener);
void netd_listener_close(netd_listener *listener);

/* ---- UDP ---- */

/* Binds a UDP port; 0 lets netd choose. */
netd_udp *netd_udp_bind(uint16_t port);

/* The same, on one of netd's addresses alone: it is where datagrams come from. */
netd_udp *netd_udp_bind_on(const char *address, uint16_t port);

/* Hands one datagram to netd. address is an IP address as text: resolve names first. */
int netd_udp_send_to(netd_udp *socket, const void *payload, size_t len, const char *address, uint16_t port);

/*
 * Waits for the next datagram and returns its length; what does not fit is lost. A datagram of ours that failed earlier makes it
 * fail. from says who sent it, and may be NULL.
 */
ssize_t netd_udp_recv_from(netd_udp *socket, void *buffer, size_t len, netd_endpoint *from);

/* Makes a name's or an address' port the only peer: the one of netd_udp_send and netd_udp_recv, and nobody else is heard. */
int netd_udp_connect(netd_udp *socket, const char *host, uint16_t port);

/* Hears everybody again. */
int netd_udp_disconnect(netd_udp *socket);

/* To and from the peer of netd_udp_connect. */
int netd_udp_send(netd_udp *socket, const void *payload, size_t len);
ssize_t netd_udp_recv(netd_udp *socket, void *buffer, size_t len);

void netd_udp_set_read_deadline(netd_udp *socket, int64_t deadline_ms);
void netd_udp_set_write_deadline(netd_udp *socket, int64_t deadline_ms);
void netd_udp_set_nonblocking(netd_udp *socket, int nonblocking);

/* Whether it may send to everybody on the link; at first it may not. */
int netd_udp_set_broadcast(netd_udp *socket, int allowed);

/* The time to live of what is sent from now on; 0 leaves it to netd. */
void netd_udp_set_ttl(netd_udp *socket, uint8_t ttl);

/*
 * Whether a datagram that does not fit the path is refused, which makes netd_udp_recv_from fail and say what fits. At first it is
 * sent in fragments.
 */
int netd_udp_set_dont_fragment(netd_udp *socket, int refused);

/* The time to live of what is sent to groups; 1 at first, which is the link. */
int netd_udp_set_multicast_ttl(netd_udp *socket, uint8_t ttl);

/* Receives what is sent to a multicast group at this socket's port, and no longer. */
int netd_udp_join(netd_udp *socket, const char *group);
int netd_udp_leave(netd_udp *socket, const char *group);

/* Where it is bound; once connected, its own address towards the peer. */
netd_endpoint netd_udp_local(const netd_udp *socket);
int netd_udp_fd(const netd_udp *socket);
void netd_udp_close(netd_udp *socket);

/* ---- names and pings ---- */

/* Resolves a name to addresses as text, max of them at most; returns how many. */
int netd_resolve(const char *name, int64_t deadline_ms, char (*addresses)[NETD_ADDRESS_BYTES], size_t max);

/* Sends one echo request; returns the round trip in microseconds. timeout_ms 0 means a second. */
int64_t netd_ping(const char *address, uint32_t timeout_ms);

#ifdef __cplusplus
}
#endif

#endif
