/* An HTTP request from C over netd: http HOST PORT [PATH] */
#include <netd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what)
{
    fprintf(stderr, "http: cannot %s: %s\n", what, netd_error());
    return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: http HOST PORT [PATH]\n");
        return 2;
    }
    char request[1024];
    int len = snprintf(request, sizeof request, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", argc > 3 ? argv[3] : "/", argv[1]);
    if (len < 0 || (size_t)len >= sizeof request) {
        fprintf(stderr, "http: the path is too long\n");
        return 2;
    }

    netd_stream *stream = netd_tcp_connect(argv[1], (uint16_t)atoi(argv[2]), 0);
    if (!stream)
        return fail("connect");
    for (int sent = 0; sent < len;) {
        ssize_t count = netd_stream_write(stream, request + sent, (size_t)(len - sent));
        if (count < 0)
            return fail("write");
        sent += (int)count;
    }
    if (netd_stream_shutdown_write(stream) < 0)
        return fail("finish the request");

    char answer[4096];
    ssize_t count;
    while ((count = netd_stream_read(stream, answer, sizeof answer)) > 0)
        fwrite(answer, 1, (size_t)count, stdout);
    /* An answer that was cut short is an error here, and never a short answer. */
    if (count < 0)
        return fail("read");
    netd_stream_close(stream);
    return EXIT_SUCCESS;
}
