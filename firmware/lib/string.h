/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The part of the C library's <string.h> that is used, with its meaning. */
#ifndef STRING_H
#define STRING_H

#include <stddef.h>

void *memset(void *to, int byte, size_t bytes);
void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
int memcmp(const void *a, const void *b, size_t bytes);
size_t strlen(const char *s);
int strncmp(const char *a, const char *b, size_t most);

#endif
