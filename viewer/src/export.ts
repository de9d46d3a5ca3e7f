// Copies for elsewhere: a step as JSON, a selection as JSON lines, with all that the transcript has of them.
import { getText } from "./api";
import type { StepTable } from "./table";

export const MOST_EXPORTED = 10_000;

type Json = Record<string, unknown>;

/** A step of a trajectory record, with what the record says of its trajectory. */
function stepOf(line: string, step: number): Json {
  const record = JSON.parse(line) as Json & { steps: Json[] };
  const { steps, ...trajectory } = record;
  return { ...trajectory, ...steps[step] };
}

export async function copyStep(
  run: string,
  place: { iteration: number; group: number; member: number },
  step: number,
): Promise<void> {
  if (!navigator.clipboard)
    throw new Error("The browser lets pages copy only on this machine (127.0.0.1, also through ssh -L) or over HTTPS.");
  const line = await getText("record", { run, ...place });
  await navigator.clipboard.writeText(JSON.stringify(stepOf(line, step), null, 1));
}

/** Offer the steps for download, a line each; every trajectory is asked for once. */
export async function exportSteps(
  run: string,
  table: StepTable,
  rows: Uint32Array,
  say: (note: string) => void,
): Promise<void> {
  const chosen = rows.subarray(0, MOST_EXPORTED);
  const records = new Map<number, string>();
  const lines: string[] = [];
  try {
    for (const [at, row] of chosen.entries()) {
      const trajectory = table.at("trajectory", row);
      let line = records.get(trajectory);
      if (line === undefined) {
        const place = {
          iteration: table.at("iteration", row),
          group: table.at("group", row),
          member: table.at("member", row),
        };
        line = await getText("record", { run, ...place });
        records.set(trajectory, line);
        if (records.size > 200) records.delete(records.keys().next().value as number);
        say(`${at} of ${chosen.length} …`);
      }
      lines.push(`${JSON.stringify(stepOf(line, table.at("step", row)))}\n`);
    }
  } catch (error) {
    say((error as Error).message);
    return;
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  link.download = `${run.replace(/[^\w.-]+/g, "-")}-steps.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  say(`${lines.length.toLocaleString("en")} steps written`);
}
