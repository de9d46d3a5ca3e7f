// A step with everything that was computed for it.
import { useMemo, useState } from "preact/hooks";
import { useGet } from "./api";
import { PromptDiff } from "./diff";
import { copyStep } from "./export";
import { isActive } from "./filters";
import { counted, num, signed } from "./format";
import { IterationNav } from "./iteration";
import { Badges, EntropyBar, Facts, Failure, Notes, Strip, outcome } from "./parts";
import { toAnchor, toGroup, toStep, toSteps } from "./route";
import { useSelection } from "./selection";
import { type StepTable, useTable } from "./table";
import { TokenHeat } from "./tokens";
import type { Fences, FullStep, Group, Member, RunPage, Step } from "./types";

interface Place {
  page: RunPage;
  iteration: number;
  group: Group;
  member: number;
  step: number;
}

interface Ways {
  before: string | null;
  after: string | null;
  note: string;
}

/** The steps before and after this one: of the selection in the address where there is one, else of the episode. */
function useWays({ page, iteration, group, member, step }: Place, count: number, query: URLSearchParams): Ways {
  const chosen = isActive(query);
  const { table } = useTable(page.name, page.version, chosen);
  const { rows } = useSelection(page.name, chosen ? table : null, query);
  const here = useMemo(
    () => (table && chosen ? table.find(iteration, group.group, member, step) : -1),
    [table, chosen, iteration, group, member, step],
  );
  if (!chosen) {
    const link = (other: number) =>
      other >= 0 && other < count ? toStep(page.name, iteration, group.group, member, other) : null;
    return { before: link(step - 1), after: link(step + 1), note: `step ${step + 1} of ${count}` };
  }
  const at = rows.indexOf(here);
  const link = (row: number | undefined) => (table && row !== undefined ? linkOf(page.name, table, row, query) : null);
  if (at < 0)
    return {
      before: null,
      after: link(rows[0]),
      note: table ? `not among the ${counted(rows.length, "selected step")}` : "reading the steps …",
    };
  return {
    before: link(rows[at - 1]),
    after: link(rows[at + 1]),
    note: `${(at + 1).toLocaleString("en")} of ${counted(rows.length, "selected step")}`,
  };
}

function linkOf(run: string, table: StepTable, row: number, query: URLSearchParams): string {
  const [iteration, group, member, step] = ["iteration", "group", "member", "step"].map((name) =>
    table.at(name, row),
  ) as [number, number, number, number];
  return `${toStep(run, iteration, group, member, step)}?${query}`;
}

/** Why the step was flagged, or was not, in a sentence. */
function reason(step: Step, fences: Fences | null, others: number): string {
  const score = step.normalized_entropy;
  if (score === null) return "It has no H_n, so it could not be flagged.";
  const measured = others
    ? `measured against ${counted(others, "other visit")} of this state in the transcript`
    : "in a state that no other recorded step visited";
  if (step.outlier === "high")
    return `Flagged: H_n ${signed(score)} is above the upper fence ${signed(fences?.upper)}, ${measured}.`;
  if (step.outlier === "low")
    return `Flagged: H_n ${signed(score)} is below the lower fence ${signed(fences?.lower)}, ${measured}.`;
  return `Not flagged: H_n ${signed(score)} lies between the fences, ${measured}.`;
}

interface Measured {
  page: RunPage;
  iteration: number;
  group: Group;
  step: Step;
  others: Step[];
}

function Numbers({ page, iteration, group, step, others }: Measured) {
  const entropies = others.map((one) => one.normalized_entropy).filter((value) => value !== null);
  const isSum = page.settings.some(
    ([name, value]) => name === "algorithm.selective.token_aggregation" && value === "sum",
  );
  return (
    <section class="box">
      <h3>Numbers</h3>
      <EntropyBar step={step} fences={group.fences} others={entropies} />
      <p class="small">
        {reason(step, group.fences, others.length)}{" "}
        {step.outlier && !step.acted_on && "The selective terms do not act on it."}
      </p>
      <Facts
        pairs={[
          [
            "H_n",
            `${signed(step.normalized_entropy)}, fences ${signed(group.fences?.lower)} to ${signed(group.fences?.upper)}`,
          ],
          ["H", `${num(step.entropy)} nats`],
          ["A", signed(step.advantage)],
          ["A_E, A_S", `${signed(step.episode_advantage)}, ${signed(step.step_advantage)}`],
          ["reward, return", `${num(step.reward)}, ${num(step.return)}`],
          ["R_TA, P_TI", `${num(step.r_ta)}, ${num(step.p_ti)} nats per ${isSum ? "response" : "token"}`],
          ["log-probability", `${num(step.logprob)} nats, ${counted(step.tokens ?? 0, "token")}`],
          ["valid", step.valid === false ? `no${step.problem && `: ${step.problem}`}` : "yes"],
          [
            "state",
            step.anchor_group === null ? (
              "–"
            ) : (
              <a href={toAnchor(page.name, iteration, group.group, step.anchor_group)}>
                {step.anchor_group}, {counted(step.anchor_size ?? 0, "visit")}
              </a>
            ),
          ],
        ]}
      />
    </section>
  );
}

function Prompts({ full }: { full: FullStep }) {
  const [whole, setWhole] = useState(false);
  const texts = full.scored ?? { full: full.prompt, blind: full.blind_prompt };
  return (
    <section class="box spaced">
      <h3>Full and trajectory-blind prompt</h3>
      <p class="bar small">
        <span>
          <del>only the full prompt</del> <ins>only the blind prompt</ins>
        </span>
        <label>
          <input type="checkbox" checked={whole} onChange={(event) => setWhole(event.currentTarget.checked)} /> side by
          side
        </label>
        <span class="soft">
          {full.scored
            ? "Exactly the texts that were scored, control tokens included."
            : "Without what the chat template adds; this run does not hold it."}
        </span>
      </p>
      {whole ? (
        <div class="two even">
          <div>
            <h4>full prompt</h4>
            <pre class="text" dir="auto" tabIndex={0}>
              {texts.full}
            </pre>
          </div>
          <div>
            <h4>trajectory-blind prompt</h4>
            <pre class="text" dir="auto" tabIndex={0}>
              {texts.blind}
            </pre>
          </div>
        </div>
      ) : (
        <PromptDiff full={texts.full} blind={texts.blind} />
      )}
    </section>
  );
}

const THOUGHT = /<(think|thinking|thought|reasoning)>([\s\S]*?)<\/\1>/;

function Said({ full, brief }: { full: FullStep | undefined; brief: Step }) {
  const thought = THOUGHT.exec(full?.response ?? brief.response ?? "")?.[2]?.trim();
  return (
    <section class="box">
      <h3>
        Step {brief.step} <Badges step={brief} />
      </h3>
      {full?.note && <p class="small soft">{full.note}</p>}
      <h4>observation</h4>
      <pre class="text" dir="auto" tabIndex={0}>
        {full?.observation ?? brief.observation}
      </pre>
      {thought && (
        <>
          <h4>reasoning</h4>
          <pre class="text" dir="auto" tabIndex={0}>
            {thought}
          </pre>
        </>
      )}
      <h4>response</h4>
      {full && full.tokens_of_response.length > 0 ? (
        <TokenHeat tokens={full.tokens_of_response} />
      ) : (
        <pre class="text" dir="auto" tabIndex={0}>
          {full?.response ?? brief.response}
        </pre>
      )}
      <h4>action</h4>
      <p class="act" dir="auto">
        &gt; {brief.action || "(none)"}
      </p>
      {full?.admissible && full.admissible.length > 0 && (
        <details>
          <summary class="soft small">{counted(full.admissible.length, "command")} on offer</summary>
          <ul class="offers" dir="auto">
            {full.admissible.map((one, i) => (
              <li key={i}>{one}</li>
            ))}
          </ul>
        </details>
      )}
    </section>
  );
}

export function StepView({ query, ...place }: Place & { query: URLSearchParams }) {
  const { page, iteration, group, member, step } = place;
  const { data, error } = useGet<{ step: FullStep; group: Group; member: Member }>("step", {
    run: page.name,
    iteration,
    group: group.group,
    member,
    step,
  });
  // What did not fit on the page of the iteration comes with the step itself.
  const mine = group.members.find((one) => one.member === member) ?? data?.member;
  const brief = mine?.steps[step] ?? data?.step;
  const ways = useWays(place, mine?.length ?? 0, query);
  const [copied, setCopied] = useState("");
  if (!mine || !brief) return <Failure error={error} />;
  const full = data?.step;
  const others = group.members
    .flatMap((one) => one.steps)
    .filter((one) => one.anchor_group === brief.anchor_group && one !== brief);
  const copy = () =>
    copyStep(page.name, { iteration, group: group.group, member }, step).then(
      () => setCopied("copied"),
      (err: Error) => setCopied(err.message),
    );
  return (
    <>
      <IterationNav page={page} iteration={iteration} />
      <h2 dir="auto">
        <a href={toGroup(page.name, iteration, group.group)}>
          {group.goal || data?.group.goal || `group ${group.group}`}
        </a>
      </h2>
      <Siblings {...place} mine={mine} anchor={brief.anchor_group} />
      <p class="bar">
        {ways.before ? (
          <a href={ways.before} data-key="p">
            ← previous
          </a>
        ) : (
          <span class="soft">← previous</span>
        )}
        <span class="soft" role="status">
          {ways.note}
        </span>
        {ways.after ? (
          <a href={ways.after} data-key="n">
            next →
          </a>
        ) : (
          <span class="soft">next →</span>
        )}
        {isActive(query) && <a href={toSteps(page.name, query.toString())}>back to the selection</a>}
        <button data-key="c" onClick={copy}>
          Copy as JSON
        </button>
        <span class="soft" role="status">
          {copied}
        </span>
      </p>
      <div class="two">
        <Said full={full} brief={brief} />
        <Numbers
          page={page}
          iteration={iteration}
          group={group.fences ? group : (data?.group ?? group)}
          step={brief}
          others={others}
        />
      </div>
      <Failure error={error} />
      <Notes title="Missing" texts={full?.remarks ?? []} />
      {full && <Prompts full={full} />}
      {full?.play && (
        <section class="box spaced">
          <h3>Play from here</h3>
          <p class="small soft">In a terminal, where this run's environment is installed:</p>
          <pre class="text" tabIndex={0}>
            {full.play}
          </pre>
        </section>
      )}
    </>
  );
}

function Siblings({
  page,
  iteration,
  group,
  mine,
  member,
  step,
  anchor,
}: Place & { mine: Member; anchor: number | null }) {
  return (
    <div class="strip">
      <span class="who">
        Member {member}: <span class={mine.won ? "yes" : "no"}>{outcome(mine)}</span>
      </span>
      <Strip run={page.name} iteration={iteration} group={group} member={mine} chosen={step} marked={anchor} />
    </div>
  );
}
