/*
 * The interpreter as an ordinary program, for tests, sanitizers and debuggers.
 *
 *     planrun PLAN...              check each plan and say what is thought of it; status 1 if one is refused
 *     planrun init FIRST_FD        what the static image does, on the descriptors that it would get
 *     planrun passwd UID < FILE    the home directory in each line of a passwd file that is of this uid
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"

static void *read_all(const char *path, size_t *size)
{
    FILE *file = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    char *data = NULL;
    *size = 0;
    if (!file) return NULL;
    for (size_t room = 65536, n = 1; n; room *= 2) {
        data = realloc(data, room);
        if (!data) abort();
        n = fread(data + *size, 1, room - *size, file);
        *size += n;
    }
    if (file != stdin) fclose(file);
    // no byte more than there is: what reads past the end is caught
    char *exact = malloc(*size ? *size : 1);
    if (!exact) abort();
    memcpy(exact, data, *size);
    free(data);
    return exact;
}

static int check(const char *path)
{
    size_t size;
    void *plan = read_all(path, &size);
    if (!plan) {
        perror(path);
        return 1;
    }
    // the number of the first descriptor is whatever the plan says: there are none here
    u32 first_fd = 0;
    if (size >= sizeof(struct header)) first_fd = ((const struct header *)plan)->first_fd;
    long error = plan_check(plan, size, first_fd);
    printf("%s: %s\n", path, error ? "refused" : "good");
    free(plan);
    return error != 0;
}

static int passwd(u32 uid)
{
    char *line = NULL, home[256];
    size_t room = 0;
    ssize_t n;
    while ((n = getline(&line, &room, stdin)) >= 0) {
        char *exact = malloc((size_t)n + 1);
        if (!exact) abort();
        memcpy(exact, line, (size_t)n);
        size_t size = (size_t)n - (n && exact[n - 1] == '\n');
        if (passwd_line(exact, size, uid, home, sizeof(home))) puts(home);
        free(exact);
    }
    free(line);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "passwd")) return passwd((u32)strtoul(argv[2], NULL, 10));
    if (argc == 3 && !strcmp(argv[1], "init")) {
        u32 first_fd = (u32)strtoul(argv[2], NULL, 10);
        char path[64];
        size_t size;
        snprintf(path, sizeof(path), "/proc/self/fd/%u", first_fd + 1);
        void *plan = read_all(path, &size);
        if (plan) plan_run(plan, size, first_fd);
        return 1;
    }
    int status = argc < 2;
    for (int i = 1; i < argc; i++)
        status |= check(argv[i]);
    return status;
}
