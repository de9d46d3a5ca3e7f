// Flags for other settings, from saved numbers: eq. 2 and 3 as in src/stapo/algo/step_scores.py and outliers.py.

export interface Batch {
  entropy: Float32Array;
  score: Float32Array;
  anchor: Uint32Array;
}

export interface OutlierSettings {
  select: string;
  metric: string;
  lam: number;
  sides: "both" | "high" | "low";
  ddof: number;
  n_min: number;
  singleton: "raw" | "zero" | "exclude";
  min_std: number;
  std_floor: number;
  eps: number;
  max_fraction: number | null;
}

/** What `min_std: null` means; see src/stapo/algo/config.py. */
const ROUNDING: Record<string, number> = { bfloat16: 2e-3, float16: 2e-3 };
const MARGIN = 1e-6;
const MIN_IQR = 1e-6;

export function settingsOf(pairs: [string, string][]): OutlierSettings {
  const found = new Map(pairs);
  const text = (name: string, other: string) => found.get(`algorithm.outlier.${name}`) ?? other;
  const number = (name: string, other: number) => Number(text(name, String(other)));
  const most = text("max_fraction", "null");
  const floor = text("min_std", "0");
  return {
    select: text("select", "iqr"),
    metric: text("metric", "normalized"),
    lam: number("lam", 1.5),
    sides: text("sides", "both") as OutlierSettings["sides"],
    ddof: number("ddof", 1),
    n_min: number("n_min", 2),
    singleton: text("singleton", "raw") as OutlierSettings["singleton"],
    min_std: floor === "null" ? (ROUNDING[found.get("model.dtype") ?? ""] ?? 0) : Number(floor),
    std_floor: number("std_floor", 1e-8),
    eps: number("eps", 1e-6),
    max_fraction: most === "null" ? null : Number(most),
  };
}

/** H_n of eq. 2 for every row; NaN where there is none. Only for the metric "normalized". */
export function normalized(batch: Batch, settings: OutlierSettings): Float64Array {
  const groups = new Map<number, number[]>();
  batch.entropy.forEach((entropy, row) => {
    if (Number.isNaN(entropy)) return;
    const anchor = batch.anchor[row]!;
    const rows = groups.get(anchor);
    if (rows) rows.push(row);
    else groups.set(anchor, [row]);
  });
  const score = new Float64Array(batch.entropy.length).fill(NaN);
  for (const rows of groups.values()) {
    const n = rows.length;
    const small = n < settings.n_min;
    const mean = rows.reduce((sum, row) => sum + batch.entropy[row]!, 0) / n;
    const squares = rows.reduce((sum, row) => sum + (batch.entropy[row]! - mean) ** 2, 0);
    const std = n > settings.ddof ? Math.sqrt(squares / (n - settings.ddof)) : 0;
    const left = !small && std < settings.min_std;
    const usable = n > 1 && std > 0 && std >= settings.std_floor;
    for (const row of rows) {
      const entropy = batch.entropy[row]!;
      if (small) score[row] = settings.singleton === "raw" ? entropy : settings.singleton === "zero" ? 0 : NaN;
      else if (!left) score[row] = usable ? (entropy - mean) / (std + settings.eps) : 0;
    }
  }
  return score;
}

function quantile(sorted: Float64Array, share: number): number {
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  const [a, b] = [sorted[low]!, sorted[Math.min(low + 1, sorted.length - 1)]!];
  return a + (at - low) * (b - a);
}

export interface Flags {
  lower: number;
  upper: number;
  /** 1 above the upper fence, -1 below the lower one. */
  sides: Int8Array;
  high: number;
  low: number;
  scored: number;
  /** Why no row is flagged; "" where some could be. */
  reason: string;
}

export function flags(score: ArrayLike<number>, settings: OutlierSettings): Flags {
  const known = Float64Array.from(score)
    .filter((value) => !Number.isNaN(value))
    .sort();
  const sides = new Int8Array(score.length);
  const none = { lower: NaN, upper: NaN, sides, high: 0, low: 0, scored: known.length };
  if (known.length === 0) return { ...none, reason: "no step has a score" };
  const [q1, q3] = [quantile(known, 0.25), quantile(known, 0.75)];
  const iqr = q3 - q1;
  const [lower, upper] = [q1 - settings.lam * iqr, q3 + settings.lam * iqr];
  if (iqr < MIN_IQR)
    return { ...none, lower, upper, reason: `the interquartile range ${iqr.toPrecision(3)} is below ${MIN_IQR}` };
  let [high, low] = [0, 0];
  for (let row = 0; row < score.length; row++) {
    const value = score[row]!;
    if (value > upper + MARGIN && settings.sides !== "low") ((sides[row] = 1), high++);
    else if (value < lower - MARGIN && settings.sides !== "high") ((sides[row] = -1), low++);
  }
  return { lower, upper, sides, high, low, scored: known.length, reason: "" };
}
