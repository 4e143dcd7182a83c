/*
 * Console, memory and checksums
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdarg.h>
#include "guest.h"

/* Where isa-debugcon is by default; the BIOS has another port. */
#define DEBUGCON    0xe9

#define NUM_PAGES   64

static void print_string(const char *s)
{
    while (*s) {
        outb(DEBUGCON, *s++);
    }
}

static void print_number(unsigned int number, unsigned int base)
{
    char digits[11];
    char *p = &digits[sizeof(digits) - 1];

    *p = 0;
    do {
        *--p = "0123456789abcdef"[number % base];
        number /= base;
    } while (number);
    print_string(p);
}

static void vprint(const char *format, va_list args)
{
    for (; *format; format++) {
        if (*format != '%') {
            outb(DEBUGCON, *format);
            continue;
        }
        switch (*++format) {
        case 's':
            print_string(va_arg(args, const char *));
            break;
        case 'u':
            print_number(va_arg(args, unsigned int), 10);
            break;
        case 'x':
            print_number(va_arg(args, unsigned int), 16);
            break;
        }
    }
}

void print(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vprint(format, args);
    va_end(args);
}

void fail(const char *format, ...)
{
    va_list args;

    print("error: ");
    va_start(args, format);
    vprint(format, args);
    va_end(args);
    print("\n");

    for (;;) {
        asm volatile("cli; hlt");
    }
}

void *alloc_page(void)
{
    static uint8_t pages[NUM_PAGES][PAGE_SIZE]
        __attribute__((aligned(PAGE_SIZE)));
    static unsigned int used;

    if (used == NUM_PAGES) {
        fail("out of memory");
    }
    return pages[used++];
}

/* The compiler may call these two by itself. */

void *memset(void *to, int byte, size_t size)
{
    for (uint8_t *p = to; size; size--) {
        *p++ = byte;
    }
    return to;
}

void *memcpy(void *to, const void *from, size_t size)
{
    const uint8_t *q = from;

    for (uint8_t *p = to; size; size--) {
        *p++ = *q++;
    }
    return to;
}

/* The one of zlib. */
uint32_t crc32(uint32_t crc, const uint8_t *data, size_t size)
{
    static uint32_t table[256];

    if (!table[1]) {
        for (unsigned int i = 0; i < ARRAY_SIZE(table); i++) {
            table[i] = i;
            for (unsigned int bit = 0; bit < 8; bit++) {
                table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320 : 0);
            }
        }
    }

    crc = ~crc;
    while (size--) {
        crc = crc >> 8 ^ table[(crc ^ *data++) & 0xff];
    }
    return ~crc;
}
