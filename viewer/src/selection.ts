// The steps that the query of the address selects, searched texts included.
import { useEffect, useMemo, useState } from "preact/hooks";
import { get } from "./api";
import { select, sorted } from "./filters";
import type { StepTable } from "./table";

export interface Searched {
  /** One per row of the table: whether the text was found; null where nothing was searched for. */
  mask: Uint8Array | null;
  /** What the reader should know: still searching, or not everything was searched. */
  note: string;
}

/** Rows in whose observation, action or response a text occurs; the server looks it up in the transcripts. */
export function useSearch(run: string, table: StepTable | null, text: string): Searched {
  const [state, setState] = useState<Searched & { key: string }>({ key: "", mask: null, note: "" });
  const rows = table?.rows ?? 0;
  const key = text ? `${run}\n${rows}\n${text}` : "";
  useEffect(() => {
    if (!key) return;
    let wanted = true;
    get<{ rows: number[]; cut: boolean }>("search", { run, text }).then(
      (found) => {
        if (!wanted) return;
        const mask = new Uint8Array(rows);
        for (const row of found.rows) mask[row] = 1;
        setState({ key, mask, note: found.cut ? "The search ended at its limit; there may be more." : "" });
      },
      (error: Error) => wanted && setState({ key, mask: new Uint8Array(rows), note: error.message }),
    );
    return () => {
      wanted = false;
    };
  }, [key]);
  if (!key) return { mask: null, note: "" };
  return state.key === key ? state : { mask: new Uint8Array(rows), note: "Searching …" };
}

export interface Selection extends Searched {
  rows: Uint32Array;
}

const NONE = new Uint32Array(0);

export function useSelection(run: string, table: StepTable | null, query: URLSearchParams): Selection {
  const searched = useSearch(run, table, query.get("q") ?? "");
  const words = query.toString();
  const rows = useMemo(
    () => (table ? sorted(table, select(table, query, searched.mask), query.get("sort")) : NONE),
    [table, words, searched.mask],
  );
  return { ...searched, rows };
}
