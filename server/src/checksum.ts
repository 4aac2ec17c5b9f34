import { eachBlock, words } from "./blocks.js";

/** What each byte does to a CRC with 0 to 15 bytes after it: 16 bytes are taken at a time ("slicing by 16"). */
const TABLE = new Int32Array(16 * 256);
for (let byte = 0; byte < 256; byte++) {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  TABLE[byte] = crc;
}
for (let i = 256; i < TABLE.length; i++) {
  const before = TABLE[i - 256]!;
  TABLE[i] = (before >>> 8) ^ TABLE[before & 255]!;
}

/**
 * The CRC-32 (that of zlib: https://www.rfc-editor.org/rfc/rfc1952#section-8) of a text's UTF-8 bytes, going on from
 * the CRC-32 of what came before it; that of nothing is 0.
 */
export function crc32(text: string, before: number): number {
  let crc = ~before;
  eachBlock(text, (length) => {
    crc = crcOfBlock(length, crc);
  });
  return ~crc >>> 0;
}

function crcOfBlock(length: number, before: number): number {
  let crc = before;
  const whole = (length >>> 4) << 2;
  for (let at = 0; at < whole; at += 4) {
    const a = words[at]! ^ crc;
    const b = words[at + 1]!;
    const c = words[at + 2]!;
    const d = words[at + 3]!;
    crc =
      TABLE[3840 + (a & 255)]! ^
      TABLE[3584 + ((a >>> 8) & 255)]! ^
      TABLE[3328 + ((a >>> 16) & 255)]! ^
      TABLE[3072 + (a >>> 24)]! ^
      TABLE[2816 + (b & 255)]! ^
      TABLE[2560 + ((b >>> 8) & 255)]! ^
      TABLE[2304 + ((b >>> 16) & 255)]! ^
      TABLE[2048 + (b >>> 24)]! ^
      TABLE[1792 + (c & 255)]! ^
      TABLE[1536 + ((c >>> 8) & 255)]! ^
      TABLE[1280 + ((c >>> 16) & 255)]! ^
      TABLE[1024 + (c >>> 24)]! ^
      TABLE[768 + (d & 255)]! ^
      TABLE[512 + ((d >>> 8) & 255)]! ^
      TABLE[256 + ((d >>> 16) & 255)]! ^
      TABLE[d >>> 24]!;
  }
  for (let at = whole << 2; at < length; at++) {
    const byte = (words[at >>> 2]! >>> ((at & 3) << 3)) & 255;
    crc = (crc >>> 8) ^ TABLE[(crc ^ byte) & 255]!;
  }
  return crc;
}
