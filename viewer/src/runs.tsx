// The list of runs.
import { useState } from "preact/hooks";
import { useGet, usePoll } from "./api";
import { age, percent } from "./format";
import { Failure } from "./parts";
import { toRun } from "./route";
import type { RunEntry } from "./types";

export function Runs() {
  const [again, setAgain] = useState(0);
  const [text, setText] = useState("");
  const { data, error } = useGet<{ runs: RunEntry[] }>("runs", {}, again);
  usePoll(() => setAgain((n) => n + 1), []);
  if (!data) return <Failure error={error} />;
  const wanted = data.runs.filter((run) =>
    [run.name, run.status, run.preset, run.algorithm, run.environment].some((part) => part.toLowerCase().includes(text.toLowerCase())),
  );
  return (
    <main>
      <h1>Runs</h1>
      <p class="bar">
        <input type="search" aria-label="Filter runs" placeholder="name, algorithm, status …" value={text} data-search onInput={(event) => setText(event.currentTarget.value)} />
        <span class="soft">{wanted.length} of {data.runs.length}</span>
      </p>
      <Failure error={error} />
      {data.runs.length === 0 && <p class="none">There is no run here yet. 'stapo train' makes one; it appears here when it begins.</p>}
      <div class="box wide">
        <table class="runs">
          <thead>
            <tr><th>run</th><th>status</th><th>algorithm</th><th>preset</th><th class="r">iterations</th><th class="r">success</th><th class="r">changed</th></tr>
          </thead>
          <tbody>
            {wanted.map((run) => (
              <tr key={run.name} class={run.kind}>
                <td>{run.kind === "run" && run.status !== "damaged" ? <a href={toRun(run.name)}>{run.name}</a> : run.name}{run.reason && <div class="soft small">{run.reason}</div>}</td>
                <td><span class={`status ${run.status}`}>{run.status}</span></td>
                <td>{run.algorithm}{run.environment && <span class="soft"> on {run.environment}</span>}</td>
                <td>{run.preset}</td>
                <td class="r">{run.kind === "run" ? `${run.done ?? "–"} / ${run.planned ?? "–"}` : ""}</td>
                <td class="r">{percent(run.success)}</td>
                <td class="r soft">{run.changed === null ? "–" : age(Date.now() / 1000 - run.changed)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </main>
  );
}
