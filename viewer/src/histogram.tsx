// A histogram that filters: drag over it to choose a range; the two numbers below do the same from the keyboard.
import { useRef, useState } from "preact/hooks";
import { num } from "./format";
import { BINS, type Bins } from "./filters";

const WIDTH = 300;
const HEIGHT = 70;

interface Props {
  label: string;
  bins: Bins;
  range: [number, number] | null;
  onRange: (range: [number, number] | null) => void;
}

export function Histogram({ label, bins, range, onRange }: Props) {
  const [drag, setDrag] = useState<[number, number] | null>(null);
  const svg = useRef<SVGSVGElement>(null);
  const most = Math.max(1, ...bins.counts);
  const value = (event: PointerEvent): number => {
    const box = svg.current?.getBoundingClientRect();
    if (!box) return bins.low;
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    return bins.low + share * (bins.high - bins.low);
  };
  const x = (at: number) => (WIDTH * (Math.min(bins.high, Math.max(bins.low, at)) - bins.low)) / (bins.high - bins.low);
  const shown = drag ?? range;
  const [from, to] = shown ? [Math.min(...shown), Math.max(...shown)] : [bins.low, bins.high];
  const choose = (next: [number, number]) =>
    onRange(Number.isFinite(next[0]) || Number.isFinite(next[1]) ? next : null);
  const half = (bins.high - bins.low) / (2 * BINS);
  const edge = (text: string, side: 0 | 1) => {
    const next: [number, number] = range ? [...range] : [-Infinity, Infinity];
    next[side] = text === "" ? (side ? Infinity : -Infinity) : Number(text);
    if (!Number.isNaN(next[side])) choose(next);
  };
  const field = (side: 0 | 1) => (range && Number.isFinite(range[side]) ? String(range[side]) : "");
  return (
    <div class="hist">
      <h4>
        {label}{" "}
        {range && (
          <button class="link" onClick={() => onRange(null)}>
            all
          </button>
        )}
      </h4>
      <svg
        ref={svg}
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        preserveAspectRatio="none"
        aria-label={`${label} of the selected steps; drag to choose a range`}
        role="img"
        onPointerDown={(event) => {
          svg.current?.setPointerCapture(event.pointerId);
          setDrag([value(event), value(event)]);
        }}
        onPointerMove={(event) => drag && setDrag([drag[0], value(event)])}
        onPointerUp={() => {
          if (drag && to - from < half) onRange(null);
          // A range that reaches an end of the scale is open there: rounded, it could exclude what lies on the end.
          else if (drag)
            choose([
              from < bins.low + half ? -Infinity : +from.toPrecision(4),
              to > bins.high - half ? Infinity : +to.toPrecision(4),
            ]);
          setDrag(null);
        }}
      >
        {[...bins.counts].map((count, i) => {
          const left = bins.low + (i * (bins.high - bins.low)) / BINS;
          const right = left + (bins.high - bins.low) / BINS;
          const height = count ? Math.max(2, HEIGHT * Math.sqrt(count / most)) : 0;
          return (
            <rect
              key={i}
              class={right >= from && left <= to ? "in" : "out"}
              x={(WIDTH * i) / BINS + 0.5}
              width={WIDTH / BINS - 1}
              y={HEIGHT - height}
              height={height}
            >
              <title>
                {count} steps, {num(left)} to {num(right)}
              </title>
            </rect>
          );
        })}
        {shown && <rect class="range" x={x(from)} width={Math.max(1, x(to) - x(from))} y="0" height={HEIGHT} />}
      </svg>
      <p class="ends small">
        <input
          type="text"
          inputMode="decimal"
          aria-label={`${label} from`}
          placeholder={num(bins.low)}
          value={field(0)}
          onChange={(event) => edge(event.currentTarget.value, 0)}
        />
        <input
          type="text"
          inputMode="decimal"
          aria-label={`${label} to`}
          placeholder={num(bins.high)}
          value={field(1)}
          onChange={(event) => edge(event.currentTarget.value, 1)}
        />
      </p>
    </div>
  );
}
