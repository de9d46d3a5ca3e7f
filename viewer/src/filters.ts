// Which steps of a table are wanted. A filter is the query of an address, so every selection has a link.
import type { StepTable } from "./table";

export const RANGES = [
  { key: "reward", column: "reward", label: "reward" },
  { key: "tokens", column: "tokens", label: "response tokens" },
  { key: "hn", column: "normalized_entropy", label: "H_n" },
] as const;

/** Choices that are yes or no, with the column and the values that pass. */
export const MARKS = [
  { key: "acted", label: "acted on", pass: (t: StepTable) => test(t, "acted_on", (v) => v === 1) },
  { key: "invalid", label: "invalid", pass: (t: StepTable) => test(t, "valid", (v) => v === 0) },
  { key: "noeffect", label: "no effect", pass: (t: StepTable) => test(t, "effect", (v) => v === 0) },
  { key: "cut", label: "response cut off", pass: (t: StepTable) => test(t, "ended", (v) => v === 0) },
  { key: "repeated", label: "repeated", pass: (t: StepTable) => test(t, "repeated", (v) => v === 1) },
] as const;

/** Choices among the texts of a column. */
export const TEXTS = [
  { key: "type", column: "task_type", label: "task type" },
  { key: "stop", column: "stop_reason", label: "stop reason" },
  { key: "failure", column: "failure", label: "failed before at" },
  { key: "env", column: "env", label: "environment" },
] as const;

type Test = (row: number) => boolean;

function test(table: StepTable, column: string, pass: (value: number) => boolean): Test {
  const values = table.column(column);
  return (row) => pass(values[row] as number);
}

export function range(query: URLSearchParams, key: string): [number, number] | null {
  const [low, high] = (query.get(key) ?? "").split("..");
  if (low === undefined || high === undefined) return null;
  const found: [number, number] = [low === "" ? -Infinity : Number(low), high === "" ? Infinity : Number(high)];
  return Number.isNaN(found[0]) || Number.isNaN(found[1]) ? null : found;
}

/** Whether a query wants anything in particular, be it only an order. */
export function isActive(query: URLSearchParams): boolean {
  return query.toString() !== "";
}

function tests(table: StepTable, query: URLSearchParams, without: string): Test[] {
  const found: Test[] = [];
  const won = query.get("won");
  if (won) found.push(test(table, "won", won === "1" ? (v) => v === 1 : (v) => v !== 1));
  const flag = query.get("flag");
  if (flag) found.push(test(table, "outlier", (v) => (flag === "high" ? v > 0 : flag === "low" ? v < 0 : v !== 0)));
  for (const mark of MARKS) if (query.get(mark.key) === "1") found.push(mark.pass(table));
  for (const { key, column } of TEXTS) {
    const text = query.get(key);
    if (!text) continue;
    const code = text === "any" && key === "failure" ? -1 : (table.texts[column]?.indexOf(text) ?? -1);
    found.push(test(table, column, text === "any" && key === "failure" ? (v) => v !== 0 : (v) => v === code));
  }
  for (const { key, column } of [...RANGES, { key: "it", column: "iteration" }]) {
    const wanted = key === without ? null : range(query, key);
    if (wanted) found.push(test(table, column, (v) => v >= wanted[0] && v <= wanted[1]));
  }
  return found;
}

/** Rows that pass; those of `found` alone where a text was searched for. `without` names a range that does not count. */
export function select(table: StepTable, query: URLSearchParams, found: Uint8Array | null, without = ""): Uint32Array {
  const all = tests(table, query, without);
  const rows = new Uint32Array(table.rows);
  let count = 0;
  next: for (let row = 0; row < table.rows; row++) {
    if (found && !found[row]) continue;
    for (const pass of all) if (!pass(row)) continue next;
    rows[count++] = row;
  }
  return rows.subarray(0, count);
}

export const SORTS = [
  "iteration",
  "reward",
  "return",
  "advantage",
  "entropy",
  "normalized_entropy",
  "tokens",
  "r_ta",
  "anchor_size",
];

/** The rows in the order of a column, "-column" for the largest first; rows without a number come last. */
export function sorted(table: StepTable, rows: Uint32Array, by: string | null): Uint32Array {
  const name = by?.replace(/^-/, "");
  if (!by || !name || !SORTS.includes(name)) return rows;
  const values = table.column(name);
  const sign = by.startsWith("-") ? -1 : 1;
  const last = (row: number) => (Number.isNaN(values[row]) ? 1 : 0);
  return rows
    .slice()
    .sort((a, b) => last(a) - last(b) || sign * ((values[a] as number) - (values[b] as number)) || a - b);
}

export interface Bins {
  low: number;
  high: number;
  counts: Uint32Array;
}

export const BINS = 40;

/** The lowest and highest number of a column. */
export function extentOf(table: StepTable, column: string): [number, number] | null {
  const values = table.column(column);
  let low = Infinity;
  let high = -Infinity;
  for (let row = 0; row < table.rows; row++) {
    const value = values[row] as number;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : null;
}

/** How often each part of a column's range occurs among some rows. */
export function histogram(table: StepTable, column: string, rows: Uint32Array, extent: [number, number]): Bins {
  const [low, high] = extent[0] < extent[1] ? extent : [extent[0] - 0.5, extent[1] + 0.5];
  const values = table.column(column);
  const counts = new Uint32Array(BINS);
  const width = (high - low) / BINS;
  for (const row of rows) {
    const value = values[row] as number;
    if (!Number.isNaN(value)) counts[Math.min(BINS - 1, Math.floor((value - low) / width))]!++;
  }
  return { low, high, counts };
}
