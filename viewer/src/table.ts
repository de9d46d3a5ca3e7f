// All recorded steps of a run as columns; see src/stapo/viewer/tables.py for the bytes.
import { useEffect, useState } from "preact/hooks";
import { get, getBytes } from "./api";

export type Numbers = Float32Array | Float64Array | Int8Array | Uint8Array | Uint16Array | Uint32Array;

const TYPES = {
  f32: Float32Array,
  f64: Float64Array,
  i8: Int8Array,
  u8: Uint8Array,
  u16: Uint16Array,
  u32: Uint32Array,
} as const;

interface Header {
  generation: number;
  first_row: number;
  rows: number;
  columns: { name: string; type: keyof typeof TYPES; offset: number }[];
  texts: Record<string, string[]>;
}

export class StepTable {
  constructor(
    readonly generation: number,
    readonly rows: number,
    readonly columns: ReadonlyMap<string, Numbers>,
    readonly texts: Readonly<Record<string, string[]>>,
  ) {}

  /** A column; zeros where the run has none of that name. */
  column(name: string): Numbers {
    return this.columns.get(name) ?? new Uint8Array(this.rows);
  }

  at(name: string, row: number): number {
    return this.columns.get(name)?.[row] ?? NaN;
  }

  text(name: string, row: number): string {
    return this.texts[name]?.[this.at(name, row)] ?? "";
  }

  /** The row of a step; -1 where it is not in the table. */
  find(iteration: number, group: number, member: number, step: number): number {
    const [its, groups, members, steps] = ["iteration", "group", "member", "step"].map((name) => this.column(name));
    if (!its || !groups || !members || !steps) return -1;
    for (let row = 0; row < this.rows; row++) {
      if (its[row] === iteration && groups[row] === group && members[row] === member && steps[row] === step) return row;
    }
    return -1;
  }
}

export function unpack(buffer: ArrayBuffer, before: StepTable | null): StepTable {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length))) as Header;
  const known = before?.generation === header.generation && before.rows === header.first_row ? before : null;
  const columns = new Map<string, Numbers>();
  for (const { name, type, offset } of header.columns) {
    const added = new TYPES[type](buffer, 4 + length + offset, header.rows);
    const old = known?.columns.get(name);
    if (old) {
      const joined = new TYPES[type](old.length + added.length);
      joined.set(old);
      joined.set(added, old.length);
      columns.set(name, joined);
    } else columns.set(name, added);
  }
  return new StepTable(header.generation, header.first_row + header.rows, columns, header.texts);
}

interface State {
  generation: number;
  rows: number;
  pending: number;
  remarks: string[];
}

export interface Loading {
  table: StepTable | null;
  /** Transcripts that are still to be read. */
  pending: number;
  remarks: string[];
  error: string;
}

const turns = new Map<string, Promise<void>>();
const MOST_TABLES = 3;
const tables = new Map<string, StepTable>();

/** Keep the tables of the runs that were looked at last; one of 100,000 steps has 16 MB. */
function keep(run: string, table: StepTable): void {
  tables.delete(run);
  tables.set(run, table);
  for (const name of tables.keys()) if (tables.size > MOST_TABLES) tables.delete(name);
}

/** The table of a run, read on as the run goes on. `version` is what changes when there is something new. */
export function useTable(run: string, version: string, wanted = true): Loading {
  const [state, setState] = useState<Loading & { run: string }>({
    run: "",
    table: null,
    pending: 0,
    remarks: [],
    error: "",
  });
  useEffect(() => {
    if (!wanted) return;
    let alive = true;
    const read = async () => {
      while (alive) {
        const found = await get<State>("table_state", { run });
        let table = tables.get(run) ?? null;
        if (!table || table.generation !== found.generation || table.rows !== found.rows) {
          const first = table?.generation === found.generation && table.rows <= found.rows ? table.rows : 0;
          table = unpack(await getBytes("table", { run, first, generation: found.generation }), table);
          keep(run, table);
        }
        if (!alive) return;
        setState({ run, table, pending: found.pending, remarks: found.remarks, error: "" });
        if (!found.pending) return;
      }
    };
    // One after the other: two that begin at once would both fetch everything.
    const turn = (turns.get(run) ?? Promise.resolve()).then(read);
    turns.set(
      run,
      turn.catch((error: Error) => {
        if (alive) setState((old) => ({ ...old, run, error: error.message }));
      }),
    );
    return () => {
      alive = false;
    };
  }, [run, version, wanted]);
  return state.run === run ? state : { table: tables.get(run) ?? null, pending: 0, remarks: [], error: "" };
}
