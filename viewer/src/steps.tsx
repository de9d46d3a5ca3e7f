// All recorded steps of a run: filters, histograms, search, a list of any length, export.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { exportSteps, MOST_EXPORTED } from "./export";
import { counted, num, percent, signed, words } from "./format";
import { extentOf, histogram, isActive, MARKS, range, RANGES, select, SORTS, TEXTS } from "./filters";
import { Histogram } from "./histogram";
import { Failure, Notes } from "./parts";
import { replaceQuery, toStep } from "./route";
import { useSelection } from "./selection";
import { type StepTable, useTable } from "./table";
import type { RunPage } from "./types";

const ROW = 30; // px
const SEEN = 24; // rows of the list at once
const MOST = 500_000; // rows that a scroll bar can tell apart

function set(query: URLSearchParams, key: string, value: string | null): void {
  const next = new URLSearchParams(query);
  if (value) next.set(key, value);
  else next.delete(key);
  replaceQuery(next);
}

const spelled = (at: [number, number]) => at.map((end) => (Number.isFinite(end) ? String(end) : "")).join("..");

function Choices({ table, query }: { table: StepTable; query: URLSearchParams }) {
  const [text, setText] = useState(query.get("q") ?? "");
  useEffect(() => setText(query.get("q") ?? ""), [query.get("q")]);
  return (
    <form
      class="bar filters"
      aria-label="Filters"
      onSubmit={(event) => {
        event.preventDefault();
        set(query, "q", text);
      }}
    >
      <input
        type="search"
        data-search
        aria-label="Search observations, actions and responses"
        placeholder="search texts, then Enter ( / )"
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onChange={(event) => set(query, "q", event.currentTarget.value)}
      />
      <label>
        outcome{" "}
        <select
          data-filter
          value={query.get("won") ?? ""}
          onChange={(event) => set(query, "won", event.currentTarget.value)}
        >
          <option value="">all</option>
          <option value="1">won</option>
          <option value="0">lost</option>
        </select>
      </label>
      <label>
        outlier{" "}
        <select value={query.get("flag") ?? ""} onChange={(event) => set(query, "flag", event.currentTarget.value)}>
          <option value="">all steps</option>
          <option value="any">flagged</option>
          <option value="high">high</option>
          <option value="low">low</option>
        </select>
      </label>
      {TEXTS.map(({ key, column, label }) => {
        const options = (table.texts[column] ?? []).filter(Boolean);
        if (options.length < (key === "failure" ? 1 : 2) && !query.get(key)) return null;
        return (
          <label key={key}>
            {label}{" "}
            <select value={query.get(key) ?? ""} onChange={(event) => set(query, key, event.currentTarget.value)}>
              <option value="">all</option>
              {key === "failure" && <option value="any">any boundary</option>}
              {options.map((option) => (
                <option key={option} value={option}>
                  {words(option)}
                </option>
              ))}
            </select>
          </label>
        );
      })}
      {MARKS.map(({ key, label }) => (
        <label key={key}>
          <input
            type="checkbox"
            checked={query.get(key) === "1"}
            onChange={(event) => set(query, key, event.currentTarget.checked ? "1" : null)}
          />{" "}
          {label}
        </label>
      ))}
      <label>
        iterations{" "}
        <input
          type="text"
          class="short"
          placeholder="from..to"
          value={query.get("it") ?? ""}
          onChange={(event) =>
            set(query, "it", /^\d*\.\.\d*$/.test(event.currentTarget.value) ? event.currentTarget.value : null)
          }
        />
      </label>
      <label>
        sort{" "}
        <select value={query.get("sort") ?? ""} onChange={(event) => set(query, "sort", event.currentTarget.value)}>
          <option value="">as recorded</option>
          {SORTS.flatMap((name) => [name, `-${name}`]).map((name) => (
            <option key={name} value={name}>
              {words(name.replace("-", ""))}, {name.startsWith("-") ? "largest" : "smallest"} first
            </option>
          ))}
        </select>
      </label>
      {isActive(query) && (
        <button type="button" onClick={() => replaceQuery(new URLSearchParams())}>
          clear
        </button>
      )}
    </form>
  );
}

function Histograms({ table, query, mask }: { table: StepTable; query: URLSearchParams; mask: Uint8Array | null }) {
  const extents = useMemo(() => RANGES.map(({ column }) => extentOf(table, column)), [table]);
  const key = query.toString();
  const bins = useMemo(
    () =>
      RANGES.map((one, i) => {
        const extent = extents[i];
        return extent ? histogram(table, one.column, select(table, query, mask, one.key), extent) : null;
      }),
    [table, key, mask],
  );
  return (
    <div class="hists">
      {RANGES.map((one, i) => {
        const found = bins[i];
        return (
          found && (
            <Histogram
              key={one.key}
              label={one.label}
              bins={found}
              range={range(query, one.key)}
              onRange={(at) => set(query, one.key, at && spelled(at))}
            />
          )
        );
      })}
    </div>
  );
}

function flags(table: StepTable, row: number) {
  const outlier = table.at("outlier", row);
  return (
    <>
      {outlier !== 0 && <span class={`tag ${outlier > 0 ? "high" : "low"}`}>{outlier > 0 ? "▲ high" : "▼ low"}</span>}
      {table.at("valid", row) === 0 && <span class="tag no">invalid</span>}
      {table.at("effect", row) === 0 && <span class="tag">no effect</span>}
      {table.at("repeated", row) === 1 && <span class="tag">repeated</span>}
      {table.at("failure", row) > 0 && <span class="tag no">failed before: {table.text("failure", row)}</span>}
    </>
  );
}

const known = (value: number) => (Number.isNaN(value) ? null : value);

function List({
  run,
  table,
  rows,
  query,
}: {
  run: string;
  table: StepTable;
  rows: Uint32Array;
  query: URLSearchParams;
}) {
  const [top, setTop] = useState(0);
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    box.current?.scrollTo(0, 0);
    setTop(0);
  }, [rows]);
  const shown = Math.min(rows.length, MOST);
  const first = Math.max(0, Math.min(Math.floor(top / ROW) - 4, shown - SEEN - 8));
  const last = Math.min(shown, first + SEEN + 8);
  const words = query.toString();
  return (
    <div
      class="list"
      ref={box}
      tabIndex={0}
      role="region"
      aria-label="steps"
      onScroll={(event) => setTop(event.currentTarget.scrollTop)}
    >
      <table aria-rowcount={rows.length}>
        <thead>
          <tr>
            <th class="r">it.</th>
            <th>place</th>
            <th>action</th>
            <th class="r">reward</th>
            <th class="r">A</th>
            <th class="r">H</th>
            <th class="r">H_n</th>
            <th class="r">tokens</th>
            <th>flags</th>
          </tr>
        </thead>
        <tbody>
          {first > 0 && <tr style={{ height: `${first * ROW}px` }} aria-hidden="true" />}
          {[...rows.subarray(first, last)].map((row, i) => {
            const [iteration, group, member, step] = ["iteration", "group", "member", "step"].map((name) =>
              table.at(name, row),
            ) as [number, number, number, number];
            const action = table.text("action", row);
            return (
              <tr key={row} aria-rowindex={first + i + 1}>
                <td class="r">{iteration}</td>
                <td>
                  <span class={table.at("won", row) === 1 ? "yes" : "no"}>
                    {table.at("won", row) === 1 ? "won" : "lost"}
                  </span>{" "}
                  {group}·{member}·{step}
                </td>
                <td class="grow">
                  <a href={`${toStep(run, iteration, group, member, step)}${words ? `?${words}` : ""}`} dir="auto">
                    {action || "(no action)"}
                  </a>
                </td>
                <td class="r">{num(known(table.at("reward", row)))}</td>
                <td class="r">{signed(known(table.at("advantage", row)))}</td>
                <td class="r">{num(known(table.at("entropy", row)))}</td>
                <td class="r">{signed(known(table.at("normalized_entropy", row)))}</td>
                <td class="r">{table.at("tokens", row)}</td>
                <td>{flags(table, row)}</td>
              </tr>
            );
          })}
          {last < shown && <tr style={{ height: `${(shown - last) * ROW}px` }} aria-hidden="true" />}
        </tbody>
      </table>
    </div>
  );
}

export function StepsView({ page, query }: { page: RunPage; query: URLSearchParams }) {
  const { table, pending, remarks, error } = useTable(page.name, page.version);
  const selection = useSelection(page.name, table, query);
  const [note, setNote] = useState("");
  if (!table)
    return error ? (
      <Failure error={error} />
    ) : (
      <p class="soft" role="status">
        Reading the steps …
      </p>
    );
  const count = selection.rows.length;
  return (
    <>
      <Failure error={error} />
      <Notes title="Missing" texts={remarks} />
      <Choices table={table} query={query} />
      <Histograms table={table} query={query} mask={selection.mask} />
      <p class="bar" role="status">
        <b data-count={count}>{counted(count, "step")}</b>
        <span class="soft">
          of {table.rows.toLocaleString("en")}, {percent(table.rows ? count / table.rows : null)}
        </span>
        {pending > 0 && <span class="soft">{counted(pending, "transcript")} still to be read</span>}
        {count > MOST && <span class="soft">the first {MOST.toLocaleString("en")} are listed</span>}
        <button disabled={count === 0} onClick={() => exportSteps(page.name, table, selection.rows, setNote)}>
          Export as JSONL
        </button>
        <span class="soft">
          {note || (count > MOST_EXPORTED ? `the first ${MOST_EXPORTED.toLocaleString("en")} are exported` : "")}{" "}
          {selection.note}
        </span>
      </p>
      <List run={page.name} table={table} rows={selection.rows} query={query} />
    </>
  );
}
