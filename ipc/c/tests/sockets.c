/* What sockets of the C library do: sockets OWN_ADDRESS PEER ECHO_PORT NAME, with echo servers of TCP and UDP at the peer. */
#include <errno.h>
#include <netd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Longer than a busy machine takes. */
#define PATIENCE_MS 60000

#define CHECK(what)                                                                            \
    do {                                                                                       \
        if (!(what)) {                                                                         \
            fprintf(stderr, "%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #what, netd_error()); \
            exit(EXIT_FAILURE);                                                                \
        }                                                                                      \
    } while (0)

static int64_t soon(void)
{
    return netd_clock_ms() + PATIENCE_MS;
}

static void read_exactly(netd_stream *stream, char *buffer, size_t len)
{
    for (size_t have = 0; have < len;) {
        ssize_t count = netd_stream_read(stream, buffer + have, len - have);
        CHECK(count > 0);
        have += (size_t)count;
    }
}

static void streams(const char *peer, uint16_t port)
{
    netd_stream *stream = netd_tcp_connect(peer, port, PATIENCE_MS);
    CHECK(stream);
    netd_endpoint local = netd_stream_local(stream), remote = netd_stream_peer(stream);
    CHECK(local.port != 0 && remote.port == port && strcmp(remote.address, peer) == 0);
    CHECK(netd_stream_set_nodelay(stream, 0) == 0 && netd_stream_set_nodelay(stream, 1) == 0);
    CHECK(netd_stream_set_keepalive(stream, 30) == 0 && netd_stream_set_keepalive(stream, 0) == 0);
    CHECK(netd_stream_set_linger(stream, 5) == 0);
    CHECK(netd_stream_set_ttl(stream, 7) == 0);
    CHECK(netd_stream_set_ttl(stream, 0) == -1 && netd_errno() == EINVAL);

    /* A deadline that has passed takes nothing, also of what is there. */
    char buffer[64];
    CHECK(netd_stream_write(stream, "question", 8) == 8);
    netd_stream_set_read_deadline(stream, soon());
    CHECK(netd_stream_peek(stream, buffer, 1) == 1 && buffer[0] == 'q');
    netd_stream_set_read_deadline(stream, netd_clock_ms() - 1);
    CHECK(netd_stream_read(stream, buffer, sizeof buffer) == -1 && netd_errno() == ETIMEDOUT);
    netd_stream_set_write_deadline(stream, 0);
    CHECK(netd_stream_write(stream, "x", 1) == -1 && netd_errno() == ETIMEDOUT);
    netd_stream_set_write_deadline(stream, NETD_NEVER);
    netd_stream_set_read_deadline(stream, soon());
    read_exactly(stream, buffer, 8);
    CHECK(memcmp(buffer, "question", 8) == 0);

    /* Without waiting: there is nothing, until poll says so. */
    netd_stream_set_nonblocking(stream, 1);
    CHECK(netd_stream_read(stream, buffer, sizeof buffer) == -1 && netd_errno() == EAGAIN);
    CHECK(netd_stream_write(stream, "again", 5) == 5);
    struct pollfd readable = {.fd = netd_stream_fd(stream), .events = POLLIN};
    CHECK(poll(&readable, 1, PATIENCE_MS) == 1);
    netd_stream_set_nonblocking(stream, 0);
    read_exactly(stream, buffer, 5);

    /* The peer's end comes after the own one. */
    CHECK(netd_stream_shutdown_write(stream) == 0);
    CHECK(netd_stream_read(stream, buffer, sizeof buffer) == 0);
    netd_stream_close(stream);
    netd_stream_close(NULL);
}

static void listeners(const char *own)
{
    netd_listener *listener = netd_tcp_listen(0);
    CHECK(listener && netd_listener_fd(listener) >= 0);
    netd_listener_set_nonblocking(listener, 1);
    CHECK(!netd_tcp_accept(listener) && netd_errno() == EAGAIN);
    netd_listener_set_nonblocking(listener, 0);
    netd_listener_set_deadline(listener, netd_clock_ms() + 10);
    CHECK(!netd_tcp_accept(listener) && netd_errno() == ETIMEDOUT);
    netd_listener_set_deadline(listener, soon());
    netd_stream *ours = netd_tcp_connect(own, netd_listener_port(listener), 0);
    CHECK(ours);
    netd_stream *theirs = netd_tcp_accept(listener);
    CHECK(theirs && netd_stream_peer(theirs).port == netd_stream_local(ours).port);
    /* Closed with linger 0, which is a reset: cut short, and never an end. */
    CHECK(netd_stream_set_linger(theirs, 0) == 0);
    netd_stream_close(theirs);
    char byte;
    CHECK(netd_stream_read(ours, &byte, 1) == -1 && netd_errno() == ECONNRESET);
    netd_stream_close(ours);
    netd_listener_close(listener);
}

static void datagrams(const char *own, const char *peer, uint16_t port)
{
    char buffer[64];
    netd_endpoint from;
    netd_udp *udp = netd_udp_bind(0), *other = netd_udp_bind(0);
    CHECK(udp && other && netd_udp_fd(udp) >= 0 && netd_udp_local(udp).port != 0);
    netd_udp_set_read_deadline(udp, soon());
    netd_udp_set_write_deadline(udp, soon());
    CHECK(netd_udp_send_to(udp, "one", 3, peer, port) == 0);
    CHECK(netd_udp_recv_from(udp, buffer, sizeof buffer, &from) == 3);
    CHECK(from.port == port && strcmp(from.address, peer) == 0);
    CHECK(netd_udp_send(udp, "x", 1) == -1 && netd_errno() == ENOTCONN);
    CHECK(netd_udp_send_to(udp, "x", 1, "nonsense", 1) == -1 && netd_errno() == EINVAL);

    CHECK(netd_udp_connect(udp, peer, port) == 0);
    CHECK(strcmp(netd_udp_local(udp).address, own) == 0);
    netd_udp *bound = netd_udp_bind_on(own, 0);
    CHECK(bound && strcmp(netd_udp_local(bound).address, own) == 0);
    CHECK(netd_udp_set_dont_fragment(bound, 1) == 0);
    netd_udp_close(bound);
    CHECK(!netd_udp_bind_on(peer, 0) && netd_errno() == EINVAL);
    netd_udp_set_ttl(udp, 9);
    CHECK(netd_udp_send(udp, "two", 3) == 0 && netd_udp_recv(udp, buffer, sizeof buffer) == 3);
    /* Connected, it hears nobody else; afterwards it does. */
    CHECK(netd_udp_send_to(other, "stranger", 8, own, netd_udp_local(udp).port) == 0);
    netd_udp_set_read_deadline(udp, netd_clock_ms() + 200);
    CHECK(netd_udp_recv_from(udp, buffer, sizeof buffer, NULL) == -1 && netd_errno() == ETIMEDOUT);
    CHECK(netd_udp_disconnect(udp) == 0);
    netd_udp_set_read_deadline(udp, soon());
    CHECK(netd_udp_send_to(other, "friend", 6, own, netd_udp_local(udp).port) == 0);
    CHECK(netd_udp_recv_from(udp, buffer, sizeof buffer, &from) == 6 && from.port == netd_udp_local(other).port);
    netd_udp_set_nonblocking(udp, 1);
    CHECK(netd_udp_recv_from(udp, buffer, sizeof buffer, NULL) == -1 && netd_errno() == EAGAIN);

    CHECK(netd_udp_set_broadcast(udp, 1) == 0 && netd_udp_set_multicast_ttl(udp, 2) == 0);
    CHECK(netd_udp_join(udp, "239.1.2.3") == 0 && netd_udp_leave(udp, "239.1.2.3") == 0);
    CHECK(netd_udp_join(udp, peer) == -1 && netd_errno() == EINVAL);
    netd_udp_close(udp);
    netd_udp_close(other);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: sockets OWN_ADDRESS PEER ECHO_PORT NAME\n");
        return 2;
    }
    const char *own = argv[1], *peer = argv[2], *name = argv[4];
    uint16_t port = (uint16_t)atoi(argv[3]);
    streams(peer, port);
    listeners(own);
    datagrams(own, peer, port);

    char found[4][NETD_ADDRESS_BYTES];
    CHECK(netd_resolve(name, soon(), found, 4) == 1 && strcmp(found[0], peer) == 0);
    CHECK(netd_resolve(name, netd_clock_ms(), found, 4) == -1 && netd_errno() == ETIMEDOUT);
    CHECK(netd_resolve("nobody.invalid", NETD_NEVER, found, 4) == -1 && netd_errno() == ENOENT);
    CHECK(netd_ping(peer, PATIENCE_MS) > 0);
    CHECK(!netd_tcp_connect(peer, 1, 0) && netd_errno() == ECONNREFUSED);
    CHECK(strncmp(netd_error(), "ConnectionRefused: ", 19) == 0);
    CHECK(!netd_tcp_connect(NULL, 1, 0) && netd_errno() == EINVAL);
    return EXIT_SUCCESS;
}
