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

const encoder = new TextEncoder();

/**
 * The CRC-32 (that of zlib: https://www.rfc-editor.org/rfc/rfc1952#section-8) of a text's UTF-8 bytes, going on from
 * the CRC-32 of what came before it; that of nothing is 0.
 */
export function crc32(text: string, before: number): number {
  const bytes = encoder.encode(text);
  const length = bytes.length;
  let crc = ~before;
  let at = 0;
  for (; at + 16 <= length; at += 16) {
    let next =
      TABLE[3840 + ((bytes[at]! ^ crc) & 255)]! ^
      TABLE[3584 + (bytes[at + 1]! ^ ((crc >>> 8) & 255))]! ^
      TABLE[3328 + (bytes[at + 2]! ^ ((crc >>> 16) & 255))]! ^
      TABLE[3072 + (bytes[at + 3]! ^ (crc >>> 24))]!;
    next ^=
      TABLE[2816 + bytes[at + 4]!]! ^
      TABLE[2560 + bytes[at + 5]!]! ^
      TABLE[2304 + bytes[at + 6]!]! ^
      TABLE[2048 + bytes[at + 7]!]! ^
      TABLE[1792 + bytes[at + 8]!]! ^
      TABLE[1536 + bytes[at + 9]!]!;
    crc =
      next ^
      TABLE[1280 + bytes[at + 10]!]! ^
      TABLE[1024 + bytes[at + 11]!]! ^
      TABLE[768 + bytes[at + 12]!]! ^
      TABLE[512 + bytes[at + 13]!]! ^
      TABLE[256 + bytes[at + 14]!]! ^
      TABLE[bytes[at + 15]!]!;
  }
  for (; at < length; at++) crc = (crc >>> 8) ^ TABLE[(crc ^ bytes[at]!) & 255]!;
  return ~crc >>> 0;
}
