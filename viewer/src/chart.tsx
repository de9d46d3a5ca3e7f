// One panel of a figure: lines over iterations. A click, or Enter, opens the iteration under the cursor.
import { scaleLinear, scaleLog } from "d3-scale";
import { useMemo, useState } from "preact/hooks";
import type { Evaluation } from "./types";

export interface Series {
  label: string;
  color: string;
  dashed: boolean;
  x: number[];
  y: (number | null)[];
}

export interface Opened {
  /** Iterations that can be opened. */
  iterations: number[];
  /** `series` is the place of the line that was nearest to the pointer. */
  open: (iteration: number, series: number) => void;
}

interface Props {
  title: string;
  label: string;
  scale: "" | "percent" | "whole" | "log";
  zero?: boolean;
  series: Series[];
  points?: Evaluation[];
  opened?: Opened;
  /** What the places on the x axis are called. */
  unit?: string;
}

const WIDTH = 460;
const HEIGHT = 190;
const LEFT = 50;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 26;

function extent(values: number[]): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 1];
}

export function nearest(sorted: number[], at: number): number | null {
  let best: number | null = null;
  for (const value of sorted) if (best === null || Math.abs(value - at) < Math.abs(best - at)) best = value;
  return best;
}

export function Chart({ title, label, scale, zero, series, points = [], opened, unit = "iteration" }: Props) {
  const [cursor, setCursor] = useState<number | null>(null);
  const { x, y, paths } = useMemo(() => {
    const xs = series.flatMap((line) => line.x).concat(points.map((point) => point.iteration));
    const [first, last] = extent(xs);
    const room = Math.max(0.5, 0.02 * (last - first));
    const x = scaleLinear([first - room, last + room], [LEFT, WIDTH - RIGHT]);
    const drawn = (value: number | null): value is number => value !== null && (scale !== "log" || value > 0);
    let [low, high] = extent(
      [...series.flatMap((line) => line.y), ...points.map((point) => point.success)].filter(drawn),
    );
    if (scale === "whole") [low, high] = [0, 1];
    else if (scale !== "log") {
      if (zero || (low > 0 && low < 0.6 * high)) low = Math.min(0, low);
      if (low === high) [low, high] = [low - 0.5, high + 0.5];
      high += 0.06 * (high - low);
    } else if (low === high) [low, high] = [low / 2, high * 2];
    const y = (scale === "log" ? scaleLog() : scaleLinear()).domain([low, high]).range([HEIGHT - BOTTOM, TOP]);
    const paths = series.map((line) => {
      let path = "";
      let pen = "M";
      line.y.forEach((value, i) => {
        const at = line.x[i];
        if (at === undefined || !drawn(value)) return;
        path += `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = "L";
      });
      return path;
    });
    return { x, y, paths };
  }, [series, points, scale, zero]);

  const tick = (value: number) =>
    scale === "percent" || scale === "whole" ? `${+(100 * value).toPrecision(3)} %` : `${+value.toPrecision(6)}`;
  const yTicks = scale === "log" ? y.ticks(4).filter((_, i, all) => i % Math.ceil(all.length / 5) === 0) : y.ticks(4);
  const xTicks = x.ticks(6).filter(Number.isInteger);
  const shown = cursor === null ? [] : series.map((line) => line.y[line.x.indexOf(cursor)] ?? null);
  const all = useMemo(() => [...new Set(series.flatMap((line) => line.x))].sort((a, b) => a - b), [series]);

  const follow = (event: MouseEvent) => {
    const box = (event.currentTarget as SVGElement).getBoundingClientRect();
    setCursor(nearest(all, x.invert(((event.clientX - box.left) / box.width) * WIDTH)));
  };
  /** The line that is nearest to a place in the drawing, in the iteration under the cursor. */
  const lineAt = (event: MouseEvent): number => {
    const box = (event.currentTarget as SVGElement).getBoundingClientRect();
    const height = ((event.clientY - box.top) / box.height) * HEIGHT;
    const gaps = shown.map((value) =>
      value === null || (scale === "log" && value <= 0) ? Infinity : Math.abs(y(value) - height),
    );
    return Math.max(0, gaps.indexOf(Math.min(...gaps)));
  };
  const target = cursor === null || !opened ? null : nearest(opened.iterations, cursor);
  const keys = (event: KeyboardEvent) => {
    const at = cursor === null ? all.length : all.indexOf(cursor);
    if (event.key === "ArrowLeft") setCursor(all[Math.max(0, at - 1)] ?? null);
    else if (event.key === "ArrowRight") setCursor(all[Math.min(all.length - 1, at + 1)] ?? null);
    else if (event.key === "Enter" && target !== null) opened?.open(target, 0);
    else return;
    event.preventDefault();
  };
  const few = all.length <= 40;

  return (
    <div class="chart">
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        role={opened ? "button" : "img"}
        tabindex={opened ? 0 : undefined}
        aria-label={`${title}: ${label}. ${opened ? "Left and right move over the iterations, Enter opens one." : ""}`}
        class={target === null ? "" : "open"}
        onMouseMove={follow}
        onMouseLeave={() => setCursor(null)}
        onKeyDown={keys}
        onClick={(event) => target !== null && opened?.open(target, lineAt(event))}
      >
        {yTicks.map((value) => (
          <g key={value}>
            <line class="grid" x1={LEFT} x2={WIDTH - RIGHT} y1={y(value)} y2={y(value)} />
            <text class="tick" x={LEFT - 6} y={y(value) + 3.5} text-anchor="end">
              {tick(value)}
            </text>
          </g>
        ))}
        {xTicks.map((value) => (
          <text key={value} class="tick" x={x(value)} y={HEIGHT - 8} text-anchor="middle">
            {value}
          </text>
        ))}
        {paths.map((path, i) => (
          <path key={i} class={`line ${series[i]?.color}${series[i]?.dashed ? " dashed" : ""}`} d={path} />
        ))}
        {few &&
          series.map((line, k) =>
            line.y.map(
              (value, i) =>
                value !== null &&
                (scale !== "log" || value > 0) && (
                  <circle key={`${k}-${i}`} class={`dot ${line.color}`} cx={x(line.x[i] ?? 0)} cy={y(value)} r="2.6" />
                ),
            ),
          )}
        {points.map(
          (point, i) =>
            point.success !== null && (
              <g key={i} class={`eval ${point.mode === "greedy" ? "purple" : "orange"}`}>
                {point.success_standard_error !== null && (
                  <line
                    x1={x(point.iteration)}
                    x2={x(point.iteration)}
                    y1={y(Math.max(0, point.success - point.success_standard_error))}
                    y2={y(Math.min(1, point.success + point.success_standard_error))}
                  />
                )}
                <circle
                  class={point.final === false ? "hollow" : ""}
                  cx={x(point.iteration)}
                  cy={y(point.success)}
                  r="4"
                />
              </g>
            ),
        )}
        {cursor !== null && <line class="cursor" x1={x(cursor)} x2={x(cursor)} y1={TOP} y2={HEIGHT - BOTTOM} />}
      </svg>
      <p class="legend">
        {series.map((line, i) => (
          <span key={i}>
            <i class={`swatch ${line.color}${line.dashed ? " dashed" : ""}`} />
            {line.label || label}
            {cursor !== null && <b> {shown[i] == null ? "–" : tick(+(shown[i] as number).toPrecision(3))}</b>}
          </span>
        ))}
        {[...new Set(points.map((point) => point.mode))].map((mode) => (
          <span key={mode}>
            <i class={`swatch round ${mode === "greedy" ? "purple" : "orange"}`} />
            evaluation, {mode}
          </span>
        ))}
        <span class="soft" aria-live="polite">
          {cursor === null
            ? ""
            : `${unit} ${cursor}${target === null ? "" : target === cursor ? ", click for its rollouts" : `, click for the rollouts of ${target}`}`}
        </span>
      </p>
    </div>
  );
}
