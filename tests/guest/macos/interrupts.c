/*
 * Interrupts and time: PIC, local APIC, PIT, and the ACPI timer as a clock
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

#define PIC1                0x20
#define PIC2                0xa0
#define   PIC_EOI               0x20
#define   PIC_INIT              0x11        /* ICW1: cascade, ICW4 follows */
#define   PIC_8086              0x01        /* ICW4 */
#define   PIC_CASCADE           2           /* PIC2 is there on PIC1 */
#define PIC_VECTOR          0x20

#define PIT_CHANNEL0        0x40
#define PIT_MODE            0x43
#define   PIT_RATE              0x34        /* channel 0, mode 2 */
#define   PIT_DIVISOR           59659       /* of 1193182 Hz: 20 Hz */
#define   PIT_LINE              0

#define WATCHDOG_TICKS      20              /* one second */

#define APIC_EOI            0xfee000b0
#define APIC_SPURIOUS       0xfee000f0
#define   APIC_ENABLE           (1 << 8)
#define   APIC_SPURIOUS_VECTOR  0xff

/* The ACPI timer: 3579545 Hz, 24 bits */
#define PM_TIMER_OFFSET     8
#define PM_TIMER_MASK       0xffffff
#define PM_TIMER_US         1199864031u     /* us in a unit, times 2 ** 32 */

#define FLAT_CODE           8
#define GATE_INTERRUPT      0x8e00

/* A handler that the compiler makes return with iret. */
typedef struct Frame Frame;
typedef void Handler(Frame *frame);
#define HANDLER void __attribute__((interrupt))

/* Interrupt gates: the low half of the handler's address, and the high one */
static struct {
    uint32_t low, high;
} idt[256];

static uint16_t pm_timer;
static unsigned int pic_lines = 1 << PIC_CASCADE;
static unsigned int pin_line;
static unsigned int ticks, watchdog_ticks;

static void set_handler(unsigned int vector, Handler *handler)
{
    idt[vector].low = FLAT_CODE << 16 | ((uintptr_t)handler & 0xffff);
    idt[vector].high = ((uintptr_t)handler & 0xffff0000) | GATE_INTERRUPT;
}

/* Handlers */

static void pic_eoi(unsigned int line)
{
    if (line >= 8) {
        outb(PIC2, PIC_EOI);
    }
    outb(PIC1, PIC_EOI);
}

static HANDLER tick_handler(Frame *frame)
{
    ticks++;
    clock();        /* often enough for it not to miss a turn */
    pic_eoi(PIT_LINE);
}

/*
 * A PIC whose interrupt went away gives its line 7, and wants no EOI.  The
 * first one does want it if that was the second.
 */
static HANDLER spurious_handler(Frame *frame)
{
}

static HANDLER spurious_handler2(Frame *frame)
{
    pic_eoi(PIC_CASCADE);
}

static HANDLER line_handler(Frame *frame)
{
    xhci_line_interrupt();
    pic_eoi(pin_line);
}

static void message(unsigned int n)
{
    xhci_message_interrupt(n);
    write32(APIC_EOI, 0);
}

static HANDLER message0_handler(Frame *frame)
{
    message(0);
}

static HANDLER message1_handler(Frame *frame)
{
    message(1);
}

static HANDLER message2_handler(Frame *frame)
{
    message(2);
}

/* Set-up */

static void pic_write_mask(void)
{
    outb(PIC1 + 1, ~pic_lines);
    outb(PIC2 + 1, ~pic_lines >> 8);
}

static void pic_init(void)
{
    outb(PIC1, PIC_INIT);
    outb(PIC1 + 1, PIC_VECTOR);
    outb(PIC1 + 1, 1 << PIC_CASCADE);
    outb(PIC1 + 1, PIC_8086);
    outb(PIC2, PIC_INIT);
    outb(PIC2 + 1, PIC_VECTOR + 8);
    outb(PIC2 + 1, PIC_CASCADE);
    outb(PIC2 + 1, PIC_8086);
    set_handler(PIC_VECTOR + 7, spurious_handler);
    set_handler(PIC_VECTOR + 15, spurious_handler2);
    pic_write_mask();
}

static void pit_init(void)
{
    outb(PIT_MODE, PIT_RATE);
    outb(PIT_CHANNEL0, PIT_DIVISOR & 0xff);
    outb(PIT_CHANNEL0, PIT_DIVISOR >> 8);
    set_handler(PIC_VECTOR + PIT_LINE, tick_handler);
    pic_lines |= 1 << PIT_LINE;
    pic_write_mask();
}

/* The BIOS has set it up to let the PIC's interrupts through. */
static void apic_init(void)
{
    set_handler(MESSAGE_VECTOR, message0_handler);
    set_handler(MESSAGE_VECTOR + 1, message1_handler);
    set_handler(MESSAGE_VECTOR + 2, message2_handler);
    set_handler(APIC_SPURIOUS_VECTOR, spurious_handler);
    write32(APIC_SPURIOUS, APIC_ENABLE | APIC_SPURIOUS_VECTOR);
}

/* In the power management function of the PC's chipset, or in q35's */
static void clock_init(void)
{
    static const struct {
        unsigned int bdf;
        uint32_t id;
    } chipsets[] = {
        { 0x0b, 0x71138086 },       /* PIIX4, 00:01.3 */
        { 0xf8, 0x29188086 },       /* ICH9, 00:1f.0 */
    };

    for (unsigned int i = 0; i < ARRAY_SIZE(chipsets); i++) {
        if (pci_read(chipsets[i].bdf, 0) == chipsets[i].id) {
            pm_timer = pci_read(chipsets[i].bdf, 0x40) & 0xff80;
        }
    }
    if (!pm_timer) {
        fail("no ACPI timer: the machine is neither pc nor q35");
    }
    pm_timer += PM_TIMER_OFFSET;
}

void interrupts_init(void)
{
    struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) pointer = { sizeof(idt) - 1, (uintptr_t)idt };

    asm volatile("lidt %0" : : "m"(pointer));
    clock_init();
    pic_init();
    pit_init();
    apic_init();
}

void interrupts_enable_line(unsigned int line)
{
    if (line < 3 || line > 15) {
        fail("the pin is routed to line %u", line);
    }
    pin_line = line;
    set_handler(PIC_VECTOR + line, line_handler);
    pic_lines |= 1 << line;
    pic_write_mask();
}

/* Time */

void idle(void)
{
    /* sti lets nothing in before hlt: no interrupt is slept through. */
    asm volatile("sti; hlt; cli" : : : "memory");

    if (ticks - watchdog_ticks >= WATCHDOG_TICKS) {
        watchdog_ticks = ticks;
        xhci_watchdog();
    }
}

uint32_t clock(void)
{
    static uint32_t now;

    now += (inl(pm_timer) - now) & PM_TIMER_MASK;
    return now;
}

uint32_t elapsed_us(uint32_t start)
{
    return (uint64_t)(clock() - start) * PM_TIMER_US >> 32;
}

void pause_us(uint32_t us)
{
    uint32_t start = clock();

    while (elapsed_us(start) < us) {
        asm volatile("sti; nop; cli" : : : "memory");
    }
}
