/* What the programs in front of the shim's faces share: where the Python is that they stand in front of. */

#ifndef PYRUNC_FRONT_H
#define PYRUNC_FRONT_H

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A launcher's path: beside the directory that this program is in, both in a build and below a prefix. 0, or an exit
 * status where the kernel does not say where that is. */
static inline int find_launcher(const char *name, char out[2 * PATH_MAX])
{
    char here[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", here, sizeof here - 1);
    if (length <= 0) {
        fprintf(stderr, "%s: read /proc/self/exe: %s\n", name, strerror(errno));
        return 1;
    }
    here[length] = 0;
    for (int level = 0; level < 2; level++) {
        char *slash = strrchr(here, '/');
        if (slash) *slash = 0;
    }
    snprintf(out, 2 * PATH_MAX, "%s/lib/pyrunc/shim/%s", here, name);
    return 0;
}

/* Be the launcher from now on; our exit status where that cannot be. */
static inline int be_launcher(const char *name, char *launcher, char **argv)
{
    argv[0] = launcher;
    execv(launcher, argv);
    fprintf(stderr, "%s: start %s: %s\n", name, launcher, strerror(errno));
    return 1;
}

#endif
