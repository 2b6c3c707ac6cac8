/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "print.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

#include "serial.h"

static void put(char c)
{
    if (c == '\n')
        serial_put('\r');
    serial_put(c);
}

static void put_number(uint64_t value, unsigned base, unsigned width, char pad)
{
    char digits[20]; /* 2^64 - 1 has 20 decimal digits */
    unsigned n = 0;

    do
        digits[n++] = "0123456789abcdef"[value % base];
    while (value /= base);
    for (unsigned i = n; i < width; i++)
        put(pad);
    while (n)
        put(digits[--n]);
}

void print(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    for (const char *f = format; *f; f++) {
        if (*f != '%') {
            put(*f);
            continue;
        }
        f++;
        char pad = *f == '0' ? '0' : ' ';
        unsigned width = 0;
        while (*f >= '0' && *f <= '9')
            width = width * 10 + (unsigned)(*f++ - '0');
        bool is_long = *f == 'l';
        f += is_long;

        switch (*f) {
        case 's':
            for (const char *s = va_arg(arguments, const char *); *s; s++)
                put(*s);
            break;
        case 'c':
            put((char)va_arg(arguments, int));
            break;
        case 'd': {
            int64_t value = is_long ? va_arg(arguments, int64_t) : va_arg(arguments, int);
            if (value < 0)
                put('-');
            put_number(value < 0 ? -(uint64_t)value : (uint64_t)value, 10, width, pad);
            break;
        }
        case 'u':
        case 'x':
            put_number(is_long ? va_arg(arguments, uint64_t) : va_arg(arguments, unsigned),
                       *f == 'x' ? 16 : 10, width, pad);
            break;
        default:
            put(*f);
        }
    }
    va_end(arguments);
}
