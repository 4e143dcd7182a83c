/*
 * Disk: USB Mass Storage, bulk-only transport, with SCSI commands
 *
 * Each phase of a command is waited for before the next is started.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

#define CBW_SIGNATURE       0x43425355
#define CBW_IN              0x80
#define CSW_SIGNATURE       0x53425355

#define SCSI_TEST_UNIT_READY    0x00
#define SCSI_REQUEST_SENSE      0x03
#define SCSI_READ_CAPACITY      0x25
#define SCSI_READ10             0x28

#define SENSE_LENGTH        18
#define TRIES               5

/* What is read by one command */
#define CHUNK               (1 << 20)

typedef struct Cbw {
    uint32_t signature;
    uint32_t tag;
    uint32_t length;
    uint8_t flags;
    uint8_t lun;
    uint8_t command_length;
    uint8_t command[16];
} __attribute__((packed)) Cbw;

typedef struct Csw {
    uint32_t signature;
    uint32_t tag;
    uint32_t residue;
    uint8_t status;
} __attribute__((packed)) Csw;

static Device *disk;
/* Aligned, as no TRB's buffer may cross a multiple of 64 KiB, 6.4.1 */
static uint8_t buffer[CHUNK] __attribute__((aligned(0x10000)));

static uint32_t read_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

static void write_be32(uint8_t *p, uint32_t val)
{
    for (int i = 3; i >= 0; i--) {
        p[i] = val;
        val >>= 8;
    }
}

static void transfer(Endpoint *ep, void *data, unsigned int length)
{
    xhci_transfer(ep, data, length);
    if (!xhci_wait(ep)) {
        fail("a disk transfer ends with code %u", ep->code);
    }
}

/* Reads @length bytes to the buffer; false if the disk reports an error. */
static bool scsi(const uint8_t *command, unsigned int command_length,
                 uint32_t length)
{
    static Cbw cbw __attribute__((aligned(64)));
    static Csw csw __attribute__((aligned(64)));

    cbw.signature = CBW_SIGNATURE;
    cbw.tag++;
    cbw.length = length;
    cbw.flags = CBW_IN;
    cbw.command_length = command_length;
    memset(cbw.command, 0, sizeof(cbw.command));
    memcpy(cbw.command, command, command_length);

    transfer(&disk->out, &cbw, sizeof(cbw));
    if (length) {
        transfer(&disk->in, buffer, length);
    }
    transfer(&disk->in, &csw, sizeof(csw));
    if (csw.signature != CSW_SIGNATURE || csw.tag != cbw.tag) {
        fail("the disk answers something else");
    }
    return csw.status == 0 && csw.residue == 0;
}

/* A disk that was just plugged in says so once, instead of what was asked. */
static void wait_ready(void)
{
    static const uint8_t ready[6] = { SCSI_TEST_UNIT_READY };
    static const uint8_t sense[6] = {
        SCSI_REQUEST_SENSE, 0, 0, 0, SENSE_LENGTH
    };

    for (unsigned int try = 0; try < TRIES; try++) {
        if (scsi(ready, sizeof(ready), 0)) {
            return;
        }
        scsi(sense, sizeof(sense), SENSE_LENGTH);
    }
    fail("the disk does not get ready");
}

static void read_blocks(uint32_t block, uint32_t blocks, uint32_t block_size)
{
    uint8_t command[10] = { SCSI_READ10 };

    write_be32(&command[2], block);
    command[7] = blocks >> 8;
    command[8] = blocks;
    if (!scsi(command, sizeof(command), blocks * block_size)) {
        fail("READ(10) of block %u fails", block);
    }
}

void storage_start(Device *dev)
{
    disk = dev;
    print("device disk port %u\n", dev->port);
}

/* The time of the checksum is not counted. */
void storage_read_all(void)
{
    static const uint8_t capacity[10] = { SCSI_READ_CAPACITY };
    uint32_t blocks, block_size, us = 0, crc = 0;

    if (!disk) {
        fail("there is no disk");
    }
    wait_ready();
    if (!scsi(capacity, sizeof(capacity), 8)) {
        fail("READ CAPACITY fails");
    }
    blocks = read_be32(buffer) + 1;
    block_size = read_be32(buffer + 4);

    for (uint32_t block = 0; block < blocks;) {
        uint32_t count = CHUNK / block_size, start = clock();

        if (count > blocks - block) {
            count = blocks - block;
        }
        read_blocks(block, count, block_size);
        us += elapsed_us(start);
        crc = crc32(crc, buffer, count * block_size);
        block += count;
    }
    print("disk bytes %u crc32 %x us %u\n", blocks * block_size, crc, us);
}
