/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "string.h"

void *memset(void *to, int byte, size_t bytes)
{
    void *end = to;
    asm volatile("rep stosb" : "+D"(end), "+c"(bytes) : "a"(byte) : "memory");
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
    void *end = to;
    asm volatile("rep movsb" : "+D"(end), "+S"(from), "+c"(bytes) : : "memory");
    return to;
}

void *memmove(void *to, const void *from, size_t bytes)
{
    if ((size_t)((char *)to - (const char *)from) >= bytes)
        return memcpy(to, from, bytes);
    void *end = (char *)to + bytes - 1;
    from = (const char *)from + bytes - 1;
    asm volatile("std; rep movsb; cld" : "+D"(end), "+S"(from), "+c"(bytes) : : "memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t bytes)
{
    const unsigned char *x = a, *y = b;
    for (; bytes; bytes--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

size_t strlen(const char *s)
{
    size_t length = 0;
    while (s[length])
        length++;
    return length;
}

int strncmp(const char *a, const char *b, size_t most)
{
    for (; most; most--, a++, b++)
        if (*a != *b || !*a)
            return (unsigned char)*a - (unsigned char)*b;
    return 0;
}
