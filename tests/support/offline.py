"""Processes that are heard when they call anybody, from Python or from native libraries."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

# Stands before the C library's own functions, in every process that is started with it.
LISTENER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
static void note(const char *what, const char *whom) {
  FILE *file = fopen(getenv("EXPORTER_NOTED"), "a");
  if (file) { fprintf(file, "%s %s\\n", what, whom ? whom : ""); fclose(file); }
}
static int far(const struct sockaddr *to) {
  return to && (to->sa_family == AF_INET || to->sa_family == AF_INET6);
}
int connect(int one, const struct sockaddr *to, socklen_t size) {
  int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
  if (far(to)) note("connect", 0);
  return real(one, to, size);
}
ssize_t sendto(int one, const void *data, size_t count, int flags, const struct sockaddr *to,
               socklen_t size) {
  ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) =
      dlsym(RTLD_NEXT, "sendto");
  if (far(to)) note("sendto", 0);
  return real(one, data, count, flags, to, size);
}
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
  int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
      dlsym(RTLD_NEXT, "getaddrinfo");
  note("getaddrinfo", node);
  return real(node, service, hints, found);
}
"""


def listener(folder: Path) -> tuple[Path, Mapping[str, str]]:
    """The file where calls are noted, and the environment in which they are."""
    source, library, noted = (folder / name for name in ("hear.c", "hear.so", "noted"))
    source.write_text(LISTENER)
    compiler = shutil.which("g++") or "g++"  # which builds of aoti need too
    command = [compiler, "-x", "c", "-fpermissive", "-w", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", library, source, "-ldl"], check=True)
    noted.write_text("")
    return noted, {"LD_PRELOAD": str(library), "EXPORTER_NOTED": str(noted)}
