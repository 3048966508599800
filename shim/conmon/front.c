/*
 * The program that Podman and CRI-O run as conmon: says its version by itself, and is the Python for everything else.
 *
 * Podman asks for the version at the beginning of each of its commands that may start a container, and waits for the
 * answer before it does anything else. An interpreter's start is ten times as long as all that conmon does until then.
 */

#include "../front.h"

#define NAME "pyrunc-conmon"

int main(int argc, char **argv)
{
    char launcher[2 * PATH_MAX];
    if (argc == 2 && !strcmp(argv[1], "--version")) {
        /* VERSION: options.py's, by build.py */
        static const char text[] = "conmon version " VERSION "\ncommit: pyrunc\n";
        return write(STDOUT_FILENO, text, sizeof text - 1) == sizeof text - 1 ? 0 : 1;
    }
    if (argc < 1) return 1;
    if (find_launcher(NAME, launcher)) return 1;
    return be_launcher(NAME, launcher, argv);
}
