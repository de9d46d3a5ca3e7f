// Numbers and times in words.

const DASH = "–";

/** Whether this is a number; files of others may hold anything where a number belongs. */
const known = (value: unknown): value is number => typeof value === "number";

export function num(value: number | null | undefined, digits = 3): string {
  return !known(value) ? DASH : String(Number(value.toPrecision(digits)));
}

export function signed(value: number | null | undefined): string {
  return !known(value) ? DASH : value === 0 ? "0" : `${value > 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}`;
}

export function percent(value: number | null | undefined): string {
  return !known(value) ? DASH : `${(100 * value).toFixed(1)} %`;
}

const UNITS: [number, string][] = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
];

export function age(seconds: number): string {
  const unit = UNITS.find(([length]) => seconds >= length);
  return unit ? `${Math.floor(seconds / unit[0])} ${unit[1]} ago` : "now";
}

export function counted(count: number, noun: string): string {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

export const words = (text: string | null | undefined) => String(text ?? "").replaceAll("_", " ");
