// One run: words, curves, table, settings.
import { useMemo, useState } from "preact/hooks";
import { get } from "./api";
import { Chart, type Opened, type Series } from "./chart";
import { Facts, Notes } from "./parts";
import { go, toIteration } from "./route";
import type { Figure, RunPage } from "./types";

function seriesOf(page: RunPage, figure: Figure): Series[][] {
  const x = (page.columns.iteration ?? []).map((value) => value ?? 0);
  return figure.panels.map((panel) => panel.lines.map((line) => ({ ...line, x, y: page.columns[line.path] ?? [] })));
}

function FigureCard({ page, figure, opened }: { page: RunPage; figure: Figure; opened: Opened }) {
  const series = useMemo(() => seriesOf(page, figure), [page, figure]);
  const points = useMemo(() => (figure.key === "success" ? page.evals : []), [page, figure]);
  return (
    <figure class="box" id={`plot-${figure.key}`}>
      <h3>{figure.title}</h3>
      {figure.panels.map((panel, i) => (
        <Chart
          key={panel.label}
          title={figure.title}
          {...panel}
          series={series[i] ?? []}
          points={points}
          opened={opened}
        />
      ))}
      <details>
        <summary class="soft small">how to read it</summary>
        <figcaption class="small soft">
          <p>{figure.shows}</p>
          <p>
            <b>Look for</b> {figure.look_for}
          </p>
          <p>
            <b>Bad sign</b> {figure.bad_sign}
          </p>
        </figcaption>
      </details>
    </figure>
  );
}

function Sft({ page }: { page: RunPage }) {
  const series = useMemo(
    (): Series[] => [
      {
        label: "loss",
        color: "teal",
        dashed: false,
        x: page.sft.map(([step]) => step),
        y: page.sft.map(([, loss]) => loss),
      },
    ],
    [page],
  );
  return (
    <details class="spaced">
      <summary>SFT before RL</summary>
      <figure class="box half">
        <h3>SFT loss over optimizer steps</h3>
        <Chart title="SFT" label="cross-entropy (nats per token)" scale="" series={series} unit="step" />
      </figure>
    </details>
  );
}

/** Whether the files are still what the run has written; reads all of them, so only when asked for. */
function Checks({ run }: { run: string }) {
  const [found, setFound] = useState<string[] | null>(null);
  const [note, setNote] = useState("");
  const check = () => {
    setNote("Reading all files …");
    get<{ remarks: string[] }>("checks", { run }).then(
      (answer) => {
        setFound(answer.remarks);
        setNote("");
      },
      (error: Error) => setNote(error.message),
    );
  };
  return (
    <>
      <p class="bar">
        <button onClick={check}>Check the files</button>{" "}
        <span role="status">
          {note || (found?.length === 0 ? "All rows are as they were when the newest save was written." : "")}
        </span>
      </p>
      <Notes title="Changed" texts={found ?? []} />
    </>
  );
}

export function Overview({ page }: { page: RunPage }) {
  const opened = useMemo(
    () => ({ iterations: page.transcripts, open: (iteration: number) => go(toIteration(page.name, iteration)) }),
    [page],
  );
  const sections = [...new Set(page.figures.map((figure) => figure.section))];
  return (
    <>
      <p class="lead">{page.sentences.join(" ")}</p>
      <Notes title="Worth a look" texts={page.signs} />
      <Notes title="Missing" texts={page.remarks} />
      {page.transcripts.length > 0 && (
        <p class="soft">
          Click on a curve to open the rollouts of that iteration, or take{" "}
          <a href={toIteration(page.name, page.transcripts[0] ?? 0)}>the first</a> or{" "}
          <a href={toIteration(page.name, page.transcripts.at(-1) ?? 0)}>the newest, {page.transcripts.at(-1)}</a>.
        </p>
      )}
      {page.sft.length > 0 && <Sft page={page} />}
      {sections.map((section) => (
        <section key={section}>
          <h2>{section}</h2>
          <div class="plots">
            {page.figures
              .filter((figure) => figure.section === section)
              .map((figure) => (
                <FigureCard key={figure.key} page={page} figure={figure} opened={opened} />
              ))}
          </div>
        </section>
      ))}
      {page.table.length > 0 && (
        <section>
          <h2>Success before and after RL</h2>
          <div class="box wide">
            <table>
              <thead>
                <tr>
                  <th>task type</th>
                  <th class="r">episodes</th>
                  {page.modes.map((mode) =>
                    ["before", "after", "change"].map((when) => (
                      <th class="r" key={mode + when}>
                        {mode}, {when}
                      </th>
                    )),
                  )}
                </tr>
              </thead>
              <tbody>
                {page.table.map((row) => (
                  <tr key={row.label}>
                    <td>{row.label}</td>
                    <td class="r">{row.episodes}</td>
                    {row.cells.map((cells) =>
                      cells.map((cell, i) => (
                        <td class="r" key={i}>
                          {cell}
                        </td>
                      )),
                    )}
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </section>
      )}
    </>
  );
}

export function Settings({ page }: { page: RunPage }) {
  return (
    <>
      <h2>Facts</h2>
      <div class="box">
        <Facts pairs={page.facts} />
      </div>
      <Checks run={page.name} />
      <h2>config.yaml</h2>
      <pre class="box config" tabIndex={0}>
        {page.config || "There is no config.yaml."}
      </pre>
    </>
  );
}
