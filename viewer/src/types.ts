// What the server sends; see src/stapo/viewer/pages.py.

export interface RunEntry {
  name: string;
  kind: "run" | "comparison";
  status: string;
  reason: string;
  preset: string;
  algorithm: string;
  environment: string;
  done: number | null;
  planned: number | null;
  success: number | null;
  changed: number | null;
}

export interface Line {
  label: string;
  path: string;
  color: string;
  dashed: boolean;
}

export interface Panel {
  label: string;
  scale: "" | "percent" | "whole" | "log";
  zero: boolean;
  lines: Line[];
}

export interface Figure {
  key: string;
  section: string;
  title: string;
  shows: string;
  look_for: string;
  bad_sign: string;
  panels: Panel[];
}

export interface Evaluation {
  iteration: number;
  mode: string;
  final: boolean | null;
  success: number | null;
  success_standard_error: number | null;
}

export type Columns = Record<string, (number | null)[]>;

export interface RunPage {
  name: string;
  title: string;
  sentences: string[];
  signs: string[];
  remarks: string[];
  facts: [string, string][];
  settings: [string, string][];
  config: string;
  modes: string[];
  table: { label: string; episodes: string; cells: [string, string, string][] }[];
  transcripts: number[];
  evals: Evaluation[];
  sft: [number, number | null][];
  figures: Figure[];
  columns: Columns;
  version: string;
  status: string;
}

export interface Step {
  step: number;
  observation: string;
  action: string;
  response: string;
  valid: boolean | null;
  problem: string;
  repeated: boolean | null;
  effect: boolean | null;
  reward: number | null;
  return: number | null;
  advantage: number | null;
  episode_advantage: number | null;
  step_advantage: number | null;
  entropy: number | null;
  normalized_entropy: number | null;
  outlier: "high" | "low" | null;
  acted_on: boolean | null;
  anchor_group: number | null;
  anchor_size: number | null;
  tokens: number | null;
  logprob: number | null;
  r_ta?: number | null;
  p_ti?: number | null;
  retriever_error?: string;
}

export interface Token {
  text: string;
  entropy: number | null;
  logprob: number | null;
  kl: number | null;
}

export interface FullStep extends Step {
  /** The two prompts as people read them. */
  prompt: string;
  blind_prompt: string;
  /** The same exactly as the model scored them; null in runs of earlier versions. */
  scored: { full: string; blind: string } | null;
  tokens_of_response: Token[];
  play: string;
  remarks: string[];
  admissible?: string[];
  continues?: boolean;
  note?: string;
}

export interface Fences {
  q1: number | null;
  q3: number | null;
  lower: number | null;
  upper: number | null;
}

export interface Member {
  member: number;
  won: boolean | null;
  score: number | null;
  task_score: number | null;
  stop_reason: string;
  /** Of the whole episode; `steps` may have fewer where an iteration does not fit on a page. */
  length: number;
  steps: Step[];
}

export interface Group {
  group: number;
  goal: string;
  task_id: string;
  task_type: string;
  fences: Fences | null;
  members: Member[];
}

export interface Iteration {
  iteration: number;
  remarks: string[];
  groups: Group[];
}
