// The full and the trajectory-blind prompt as one text: what only the full one has, and what only the blind one has.
import { diffWordsWithSpace, diffLines, type ChangeObject } from "diff";
import { useMemo } from "preact/hooks";

const LIMIT_MS = 1500;
const WORDS_MS = 100;

export type Change = Pick<ChangeObject<string>, "value" | "added" | "removed">;

const lines = (text: string) => text.split("\n").length;

/** Lines that differ, and within a line that was replaced by one line, the words that do. */
export function changes(full: string, blind: string): Change[] {
  const found = diffLines(full, blind, { timeout: LIMIT_MS });
  if (!found)
    return [
      { value: full, removed: true, added: false },
      { value: blind, removed: false, added: true },
    ];
  const fine: Change[] = [];
  for (let i = 0; i < found.length; i++) {
    const [one, next] = [found[i]!, found[i + 1]];
    const replaced = one.removed && next?.added && lines(one.value) <= 2 && lines(next.value) <= 2;
    const within = replaced ? diffWordsWithSpace(one.value, next.value, { timeout: WORDS_MS }) : undefined;
    if (within) i++;
    fine.push(...(within ?? [one]));
  }
  return fine;
}

export function PromptDiff({ full, blind }: { full: string; blind: string }) {
  const parts = useMemo(() => changes(full, blind), [full, blind]);
  return (
    <pre class="text diff" dir="auto" tabIndex={0}>
      {parts.map((part, i) =>
        part.removed ? <del key={i}>{part.value}</del> : part.added ? <ins key={i}>{part.value}</ins> : part.value,
      )}
    </pre>
  );
}
