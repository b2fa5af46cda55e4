/*
 * The limit of the fan-out benchmark: fanout_limit <sockets> <frame's bytes> <send buffer's bytes>.
 *
 * Prints its port and takes that many connections. It then answers each line "push <count>" with the CPU seconds
 * that so many send() calls of one ready frame, each to a random socket, took. It never reads, builds nothing, and
 * ends with its input.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* xorshift64 (Marsaglia, 2003) */
static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fputs("usage: fanout_limit <sockets> <frame's bytes> <send buffer's bytes>\n", stderr);
        return 2;
    }
    int sockets = atoi(argv[1]), bytes = atoi(argv[2]), buffer = atoi(argv[3]), one = 1;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer) ||
        bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 2048) ||
        getsockname(listener, (struct sockaddr *)&address, &length))
        die("listen");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    int *to = malloc((size_t)sockets * sizeof *to);
    char *frame = malloc((size_t)bytes);
    if (!to || !frame)
        die("malloc");
    memset(frame, 'x', (size_t)bytes);
    for (int i = 0; i < sockets; i++) {
        to[i] = accept(listener, NULL, NULL);
        if (to[i] < 0 || setsockopt(to[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one))
            die("accept");
    }

    long count;
    uint64_t state = 88172645463325252u;
    while (scanf(" push %ld", &count) == 1) {
        double began = cpu_seconds();
        for (long i = 0; i < count; i++)
            if (send(to[next_random(&state) % (uint64_t)sockets], frame, (size_t)bytes, 0) != bytes)
                die("send");
        printf("%.6f\n", cpu_seconds() - began);
        fflush(stdout);
    }
    return 0;
}
