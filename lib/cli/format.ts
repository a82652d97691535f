const units = ["B", "KB", "MB", "GB", "TB", "PB"];

/** Three digits and a unit of 1000s: `1.50 GB`. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit]}`;
}

/** Three digits: `1.24 billion`. */
export function formatCount(count: number): string {
  if (count >= 999.5e6) return `${(count / 1e9).toPrecision(3)} billion`;
  if (count >= 999.5e3) return `${(count / 1e6).toPrecision(3)} million`;
  return String(count);
}
