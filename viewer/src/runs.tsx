// The list of runs.
import { useState } from "preact/hooks";
import { useGet, usePoll } from "./api";
import { age, percent } from "./format";
import { Failure } from "./parts";
import { MOST_RUNS } from "./overlay";
import { toComparison, toOverlay, toRun } from "./route";
import type { RunEntry } from "./types";

const isOpen = (run: RunEntry) => run.kind === "run" && run.status !== "damaged";

export function Runs() {
  const [again, setAgain] = useState(0);
  const [text, setText] = useState("");
  const [chosen, setChosen] = useState<string[]>([]);
  const { data, error } = useGet<{ runs: RunEntry[] }>("runs", {}, again);
  usePoll(() => setAgain((n) => n + 1), []);
  if (!data)
    return (
      <main>
        <h1>Runs</h1>
        <Failure error={error} />
        {!error && (
          <p class="soft" role="status">
            Reading the run folders …
          </p>
        )}
      </main>
    );
  const wanted = data.runs.filter((run) =>
    [run.name, run.status, run.preset, run.algorithm, run.environment].some((part) =>
      part.toLowerCase().includes(text.toLowerCase()),
    ),
  );
  return (
    <main>
      <h1>Runs</h1>
      <p class="bar">
        <input
          type="search"
          aria-label="Filter runs"
          placeholder="name, algorithm, status …"
          value={text}
          data-search
          onInput={(event) => setText(event.currentTarget.value)}
        />
        <span class="soft">
          {wanted.length} of {data.runs.length}
        </span>
        {chosen.length > 1 ? (
          <a href={toOverlay(chosen)}>Overlay {chosen.length} runs</a>
        ) : (
          <span class="soft">choose two to {MOST_RUNS} runs to lay them over each other</span>
        )}
      </p>
      <Failure error={error} />
      {data.runs.length === 0 && (
        <p class="none">There is no run here yet. 'stapo train' makes one; it appears here when it begins.</p>
      )}
      <div class="box wide">
        <table class="runs">
          <thead>
            <tr>
              <th />
              <th>run</th>
              <th>status</th>
              <th>algorithm</th>
              <th>preset</th>
              <th class="r">iterations</th>
              <th class="r">success</th>
              <th class="r">changed</th>
            </tr>
          </thead>
          <tbody>
            {wanted.map((run) => (
              <tr key={run.name} class={run.kind}>
                <td>
                  {isOpen(run) && (
                    <input
                      type="checkbox"
                      aria-label={`choose ${run.name}`}
                      checked={chosen.includes(run.name)}
                      disabled={chosen.length >= MOST_RUNS && !chosen.includes(run.name)}
                      onChange={(event) =>
                        setChosen(
                          event.currentTarget.checked
                            ? [...chosen, run.name]
                            : chosen.filter((one) => one !== run.name),
                        )
                      }
                    />
                  )}
                </td>
                <td>
                  {isOpen(run) ? (
                    <a href={toRun(run.name)}>{run.name}</a>
                  ) : run.kind === "comparison" ? (
                    <a href={toComparison(run.name)}>{run.name}</a>
                  ) : (
                    run.name
                  )}
                  {run.reason && <div class="soft small">{run.reason}</div>}
                </td>
                <td>
                  <span class={`status ${run.status}`}>{run.status}</span>
                </td>
                <td>
                  {run.algorithm}
                  {run.environment && <span class="soft"> on {run.environment}</span>}
                </td>
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
