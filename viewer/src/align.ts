// Siblings side by side: the steps of several members in common rows, one row per visit of a state.
import type { Group, Member, Step } from "./types";

export interface Row {
  anchor: number | null;
  /** By member: the place of its step in this row; null where it has none. */
  steps: (number | null)[];
}

/** Pairs of places at which two lists of states agree, both in order, as many as possible. */
export function common(a: (number | null)[], b: (number | null)[]): [number, number][] {
  const width = b.length + 1;
  const best = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const same = a[i] !== null && a[i] === b[j];
      best[i * width + j] = same
        ? best[(i + 1) * width + j + 1]! + 1
        : Math.max(best[(i + 1) * width + j]!, best[i * width + j + 1]!);
    }
  }
  const pairs: [number, number][] = [];
  let [i, j] = [0, 0];
  while (i < a.length && j < b.length) {
    if (a[i] !== null && a[i] === b[j]) pairs.push([i++, j++]);
    else if (best[(i + 1) * width + j]! >= best[i * width + j + 1]!) i++;
    else j++;
  }
  return pairs;
}

/** Steps of a member that are aligned; the time grows with the square of this. */
export const MOST_ALIGNED = 400;

/** Put the members into rows one after the other, each where most of its states are there already. */
export function align(members: Member[]): Row[] {
  let rows: Row[] = [];
  members.forEach((member, m) => {
    const anchors = member.steps.slice(0, MOST_ALIGNED).map((step) => step.anchor_group);
    const merged: Row[] = [];
    let [i, j] = [0, 0];
    const alone = (place: number): Row => ({
      anchor: anchors[place] ?? null,
      steps: members.map((_, k) => (k === m ? place : null)),
    });
    for (const [row, place] of [
      ...common(
        rows.map((one) => one.anchor),
        anchors,
      ),
      [rows.length, anchors.length],
    ] as [number, number][]) {
      while (i < row) merged.push(rows[i++]!);
      while (j < place) merged.push(alone(j++));
      const shared = rows[row];
      if (shared) {
        merged.push({ ...shared, steps: shared.steps.map((step, k) => (k === m ? place : step)) });
        i = row + 1;
        j = place + 1;
      }
    }
    rows = merged;
  });
  return rows;
}

export interface Parting {
  action: string;
  members: number[];
  won: number;
}

/** What the members that stand in a row did there; more than one entry is a parting of ways. */
export function partings(group: Group, row: Row): Parting[] {
  const found = new Map<string, Parting>();
  row.steps.forEach((place, m) => {
    const member = group.members[m];
    const step: Step | undefined = place === null ? undefined : member?.steps[place];
    if (!member || !step) return;
    const one = found.get(step.action) ?? { action: step.action, members: [], won: 0 };
    one.members.push(member.member);
    one.won += member.won ? 1 : 0;
    found.set(step.action, one);
  });
  return [...found.values()].sort((a, b) => b.members.length - a.members.length);
}
