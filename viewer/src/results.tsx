// Results of `stapo compare` and `stapo diagnose`.
import { useGet } from "./api";
import { counted, percent } from "./format";
import { Failure, Notes } from "./parts";
import { toOverlay, toRun } from "./route";
import { MOST_RUNS } from "./overlay";

interface Spread {
  mean: number | null;
  sd: number | null;
  n: number;
}

interface Difference {
  mean: number | null;
  low: number | null;
  high: number | null;
}

interface ComparedRun {
  seed: number;
  status: string;
  error: string;
  folder: string;
  final: Record<string, { success: number | null }>;
}

interface Variant {
  label: string;
  algorithm: string;
  runs: ComparedRun[];
  start: Record<string, Spread | null>;
  final: Record<string, Spread | null>;
  difference: Record<string, Difference | null>;
}

interface Comparison {
  results: {
    baseline: string;
    complete: boolean;
    protocols: Record<string, string>;
    pairing: string;
    interval: string;
    remarks: string[];
    seeds: number[];
    variants: Variant[];
  };
  runs: Record<string, string>;
}

const points = (value: number | null | undefined) =>
  value == null ? "–" : `${value > 0 ? "+" : ""}${(100 * value).toFixed(1)}`;

export function ComparisonView({ name }: { name: string }) {
  const { data, error } = useGet<Comparison>("comparison", { run: name });
  if (!data)
    return (
      <main>
        <h1>{name}</h1>
        <Failure error={error} />
      </main>
    );
  const { results, runs } = data;
  const modes = Object.keys(results.protocols ?? {});
  const variants = results.variants ?? [];
  const firsts = variants.flatMap((variant) => runs[variant.runs[0]?.folder ?? ""] ?? []).slice(0, MOST_RUNS);
  return (
    <main>
      <h1>{variants.map((variant) => variant.label).join(", ")}</h1>
      <p class="soft">
        comparison {name}: {counted(variants.length, "variant")}, {counted(results.seeds.length, "seed")}.{" "}
        {!results.complete && "Some runs are not finished."}{" "}
        {firsts.length > 1 && <a href={toOverlay(firsts)}>Overlay the first run of each</a>}
      </p>
      <Notes title="To know before reading on" texts={results.remarks} />
      {modes.map((mode) => (
        <section key={mode}>
          <h2>Success after RL, {mode}</h2>
          <div class="box wide">
            <table>
              <thead>
                <tr>
                  <th>variant</th>
                  <th class="r">start</th>
                  <th class="r">end</th>
                  <th class="r">± sd over seeds</th>
                  <th class="r">minus {results.baseline}, points</th>
                  <th class="r">95 % interval</th>
                  <th class="r">seeds</th>
                </tr>
              </thead>
              <tbody>
                {variants.map((variant) => {
                  const gap = variant.difference[mode];
                  return (
                    <tr key={variant.label}>
                      <td>{variant.label}</td>
                      <td class="r">{percent(variant.start[mode]?.mean)}</td>
                      <td class="r">{percent(variant.final[mode]?.mean)}</td>
                      <td class="r">{percent(variant.final[mode]?.sd)}</td>
                      <td class="r">{points(gap?.mean)}</td>
                      <td class="r">{gap ? `${points(gap.low)} to ${points(gap.high)}` : "–"}</td>
                      <td class="r">{variant.final[mode]?.n ?? 0}</td>
                    </tr>
                  );
                })}
              </tbody>
            </table>
            <p class="small soft">{results.protocols[mode]}</p>
          </div>
        </section>
      ))}
      <p class="small soft">
        {results.pairing} {results.interval}
      </p>
      <h2>Runs</h2>
      <div class="box wide">
        <table>
          <thead>
            <tr>
              <th>run</th>
              <th>status</th>
              {modes.map((mode) => (
                <th class="r" key={mode}>
                  end, {mode}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {variants.flatMap((variant) =>
              variant.runs.map((run) => {
                const known = runs[run.folder];
                const label = `${variant.label}, seed ${run.seed}`;
                return (
                  <tr key={label}>
                    <td>{known ? <a href={toRun(known)}>{label}</a> : label}</td>
                    <td>
                      <span class={`status ${run.status}`}>{run.status}</span> {run.error}
                    </td>
                    {modes.map((mode) => (
                      <td class="r" key={mode}>
                        {percent(run.final[mode]?.success)}
                      </td>
                    ))}
                  </tr>
                );
              }),
            )}
          </tbody>
        </table>
      </div>
    </main>
  );
}

interface Table {
  title: string;
  head: string[];
  rows: string[][];
  note: string;
}

interface Diagnosis {
  label: string;
  remarks: string[];
  steps: number;
  episodes: number;
  protocol: { sentence: string };
  tables?: Table[];
}

export function DiagnosisView({ run }: { run: string }) {
  const { data, error } = useGet<{ diagnoses: Record<string, Diagnosis>; remarks: string[] }>("diagnoses", { run });
  if (!data) return <Failure error={error} />;
  const found = Object.entries(data.diagnoses);
  return (
    <>
      <Notes title="Missing" texts={data.remarks} />
      {found.length === 0 && (
        <p class="none">
          This run was not diagnosed yet: 'stapo diagnose' measures outliers, use of goal and history, and bad steps.
        </p>
      )}
      {found.map(([checkpoint, one]) => (
        <section key={checkpoint}>
          <h2>
            {checkpoint}: {one.label}
          </h2>
          <p>
            {one.protocol?.sentence}. {counted(one.steps, "step")} in {counted(one.episodes, "episode")}.
          </p>
          <Notes title="To know before reading on" texts={one.remarks ?? []} />
          {!one.tables && (
            <p class="none">
              An earlier version wrote it without tables; its page is diagnosis/{checkpoint}/diagnosis.html in the run
              folder.
            </p>
          )}
          {one.tables?.map((table) => (
            <div class="box wide spaced" key={table.title}>
              <h3>{table.title}</h3>
              <table>
                <thead>
                  <tr>
                    {table.head.map((cell, i) => (
                      <th key={i} class={i ? "r" : ""}>
                        {cell}
                      </th>
                    ))}
                  </tr>
                </thead>
                <tbody>
                  {table.rows.map((row, r) => (
                    <tr key={r}>
                      {row.map((cell, i) => (
                        <td key={i} class={i ? "r" : ""}>
                          {cell}
                        </td>
                      ))}
                    </tr>
                  ))}
                </tbody>
              </table>
              {table.note && <p class="small soft">{table.note}</p>}
            </div>
          ))}
        </section>
      ))}
    </>
  );
}
