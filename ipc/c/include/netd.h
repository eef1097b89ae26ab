/*
 * netd for C: sockets over netd, as a small static library (libnetd_c.a; link with -lpthread -ldl -lm).
 *
 * Functions that return a pointer return NULL, and those that return a number -1, when they fail; netd_error() then says why,
 * in a sentence. All but the close functions may be called from any thread; one handle must not be closed while it is in use.
 *
 * The descriptor of each handle may be polled (POLLIN, POLLOUT), and stays the handle's: do not close it.
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

typedef struct netd_stream netd_stream;
typedef struct netd_listener netd_listener;
typedef struct netd_udp netd_udp;

/* Why the last call on this thread that failed did. Valid until the next call on this thread; never NULL. */
const char *netd_error(void);

/* Connects to a name or an address. timeout_ms 0 means netd's own: 10 seconds. */
netd_stream *netd_tcp_connect(const char *host, uint16_t port, uint32_t timeout_ms);

/* Waits for data. 0 is the peer's orderly end and only that: data cut short is -1. */
ssize_t netd_stream_read(netd_stream *stream, void *buffer, size_t len);

/* Waits until some of it is written, and returns how much; 0 only for len 0. Never a signal. */
ssize_t netd_stream_write(netd_stream *stream, const void *buffer, size_t len);

/* Says that nothing more will be written; reading goes on. */
int netd_stream_shutdown_write(netd_stream *stream);

int netd_stream_fd(const netd_stream *stream);

/* Ends the stream. What was written still goes out. NULL is allowed, here and below. */
void netd_stream_close(netd_stream *stream);

/* Listens on a port; 0 lets netd choose. */
netd_listener *netd_tcp_listen(uint16_t port);
uint16_t netd_listener_port(const netd_listener *listener);
int netd_listener_fd(const netd_listener *listener);

/* Waits for the next connection. */
netd_stream *netd_tcp_accept(netd_listener *listener);
void netd_listener_close(netd_listener *listener);

/* Binds a UDP port; 0 lets netd choose. */
netd_udp *netd_udp_bind(uint16_t port);
uint16_t netd_udp_port(const netd_udp *socket);
int netd_udp_fd(const netd_udp *socket);

/* Hands one datagram to netd. address is an IP address as text: resolve names first. */
int netd_udp_send(netd_udp *socket, const char *address, uint16_t port, const void *payload, size_t len);

/*
 * Waits for the next datagram and returns its length; what does not fit is lost. A datagram of ours that failed earlier makes it
 * fail. address (NETD_ADDRESS_BYTES long) and port say who sent it; both may be NULL.
 */
ssize_t netd_udp_recv(netd_udp *socket, void *buffer, size_t len, char *address, uint16_t *port);
void netd_udp_close(netd_udp *socket);

/* Resolves a name to addresses as text, max of them at most; returns how many. */
int netd_resolve(const char *name, char (*addresses)[NETD_ADDRESS_BYTES], size_t max);

#ifdef __cplusplus
}
#endif

#endif
