// Two to four runs over each other: their curves, and how their settings differ.
import { useMemo, useState } from "preact/hooks";
import { Chart, nearest, type Series } from "./chart";
import { useRun } from "./api";
import { Failure } from "./parts";
import { go, toIteration, toRun } from "./route";
import type { RunPage } from "./types";

const COLORS = ["blue", "orange", "green", "purple"];
export const MOST_RUNS = COLORS.length;

/** Exponential moving average; gaps stay gaps. */
function smoothed(values: (number | null)[], weight: number): (number | null)[] {
  let last: number | null = null;
  return values.map((value) => {
    if (value === null) return null;
    last = last === null ? value : weight * last + (1 - weight) * value;
    return last;
  });
}

function differences(pages: RunPage[]): [string, string[]][] {
  const all = pages.map((page) => new Map(page.settings));
  const names = new Set(pages.flatMap((page) => page.settings.map(([name]) => name)));
  return [...names]
    .map((name): [string, string[]] => [name, all.map((settings) => settings.get(name) ?? "–")])
    .filter(([, values]) => new Set(values).size > 1);
}

function Overlaid({ pages }: { pages: RunPage[] }) {
  const [weight, setWeight] = useState(0);
  const differing = useMemo(() => differences(pages), [pages]);
  // A panel per line of a figure: with several runs, the color says which run.
  const panels = useMemo(() => {
    const found = new Map<
      string,
      { title: string; label: string; scale: "" | "percent" | "whole" | "log"; section: string; path: string }
    >();
    for (const page of pages)
      for (const figure of page.figures)
        for (const panel of figure.panels)
          for (const line of panel.lines) {
            if (!found.has(line.path))
              found.set(line.path, {
                title: figure.title,
                label: line.label || panel.label,
                scale: panel.scale,
                section: figure.section,
                path: line.path,
              });
          }
    return [...found.values()];
  }, [pages]);
  const series = useMemo(
    () =>
      panels.map(({ path }) =>
        pages.flatMap((page, i): Series[] => {
          const y = page.columns[path];
          return y
            ? [
                {
                  label: page.name,
                  color: COLORS[i] ?? "gray",
                  dashed: false,
                  x: (page.columns.iteration ?? []).map((value) => value ?? 0),
                  y: weight ? smoothed(y, weight) : y,
                },
              ]
            : [];
        }),
      ),
    [panels, pages, weight],
  );
  const iterations = useMemo(
    () => [...new Set(pages.flatMap((page) => page.transcripts))].sort((a, b) => a - b),
    [pages],
  );
  const openRun = (name: string | undefined, iteration: number) => {
    const page = pages.find((one) => one.name === name);
    const own = page && nearest(page.transcripts, iteration);
    if (page && own != null) go(toIteration(page.name, own));
  };
  const sections = [...new Set(panels.map((panel) => panel.section))];
  return (
    <>
      <h2>Settings that differ</h2>
      {differing.length === 0 ? (
        <p class="none">All settings are the same.</p>
      ) : (
        <div class="box wide">
          <table>
            <thead>
              <tr>
                <th>setting</th>
                {pages.map((page) => (
                  <th key={page.name}>{page.name}</th>
                ))}
              </tr>
            </thead>
            <tbody>
              {differing.map(([name, values]) => (
                <tr key={name}>
                  <td>
                    <code>{name}</code>
                  </td>
                  {values.map((value, i) => (
                    <td key={i}>{value}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      <p class="bar">
        <label>
          smoothing{" "}
          <input
            type="range"
            min="0"
            max="0.98"
            step="0.02"
            value={weight}
            onInput={(event) => setWeight(Number(event.currentTarget.value))}
          />{" "}
          {weight || "off"}
        </label>
      </p>
      {sections.map((section) => (
        <section key={section}>
          <h2>{section}</h2>
          <div class="plots">
            {panels.map(
              (panel, i) =>
                panel.section === section && (
                  <figure class="box" key={panel.path} id={`overlay-${panel.path}`}>
                    <h3>
                      {panel.title}: {panel.label}
                    </h3>
                    <Chart
                      title={panel.title}
                      label={panel.label}
                      scale={panel.scale}
                      series={series[i] ?? []}
                      opened={{ iterations, open: (iteration, line) => openRun(series[i]?.[line]?.label, iteration) }}
                    />
                  </figure>
                ),
            )}
          </div>
        </section>
      ))}
    </>
  );
}

export function Overlay({ names }: { names: string[] }) {
  const wanted = names.slice(0, MOST_RUNS);
  // One hook per place, so that their number never changes.
  const loaded = [0, 1, 2, 3].map((i) => useRun(wanted[i] ?? wanted[0] ?? ""));
  const mine = loaded.slice(0, wanted.length);
  const pages = useMemo(
    () => mine.flatMap((one) => (one.data ? [one.data] : [])),
    mine.map((one) => one.data),
  );
  return (
    <main>
      <h1>{wanted.length} runs</h1>
      <p class="legend">
        {wanted.map((name, i) => (
          <span key={name}>
            <i class={`swatch ${COLORS[i]}`} />
            <a href={toRun(name)}>{name}</a>
          </span>
        ))}
      </p>
      {mine.map((one, i) => (
        <Failure key={wanted[i]} error={one.error} />
      ))}
      {pages.length === wanted.length && pages.length > 0 && <Overlaid pages={pages} />}
    </main>
  );
}
