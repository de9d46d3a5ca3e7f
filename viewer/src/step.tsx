// A step with everything that was computed for it.
import { useGet } from "./api";
import { counted, num, signed } from "./format";
import { IterationNav } from "./iteration";
import { Badges, EntropyBar, Facts, Failure, Strip, outcome } from "./parts";
import { toGroup, toStep } from "./route";
import type { FullStep, Group, RunPage } from "./types";

interface Props {
  page: RunPage;
  iteration: number;
  group: Group;
  member: number;
  step: number;
}

export function StepView({ page, iteration, group, member, step }: Props) {
  const mine = group.members.find((one) => one.member === member);
  const brief = mine?.steps[step];
  const { data, error } = useGet<{ step: FullStep }>("step", { run: page.name, iteration, group: group.group, member, step });
  if (!mine || !brief) return <Failure error={`Group ${group.group} has no step ${step} of member ${member}.`} />;
  const full = data?.step;
  const link = (other: number) => toStep(page.name, iteration, group.group, member, other);
  const others = group.members.flatMap((one) => one.steps).filter((one) => one.anchor_group === brief.anchor_group && one !== brief);
  const entropies = others.map((one) => one.normalized_entropy).filter((value) => value !== null);
  return (
    <>
      <IterationNav page={page} iteration={iteration} />
      <h2 dir="auto"><a href={toGroup(page.name, iteration, group.group)}>{group.goal || `group ${group.group}`}</a></h2>
      <div class="strip">
        <span class="who">Member {member}: <span class={mine.won ? "yes" : "no"}>{outcome(mine)}</span></span>
        <Strip run={page.name} iteration={iteration} group={group} member={mine} chosen={step} marked={brief.anchor_group} />
      </div>
      <p class="bar">
        {step > 0 ? <a href={link(step - 1)} data-key="p">← step {step - 1}</a> : <span class="soft">← first step</span>}
        {step + 1 < mine.steps.length ? <a href={link(step + 1)} data-key="n">step {step + 1} →</a> : <span class="soft">last step →</span>}
      </p>
      <div class="two">
        <section class="box">
          <h3>Step {brief.step} <Badges step={brief} /></h3>
          <h4>observation</h4><pre class="text" dir="auto" tabIndex={0}>{full?.observation ?? brief.observation}</pre>
          <h4>response</h4><pre class="text" dir="auto" tabIndex={0}>{full?.response ?? brief.response}</pre>
          <h4>action</h4><p class="act" dir="auto">&gt; {brief.action || "(none)"}</p>
        </section>
        <section class="box">
          <h3>Numbers</h3>
          <EntropyBar step={brief} fences={group.fences} others={entropies} />
          <Facts
            pairs={[
              ["H_n", `${signed(brief.normalized_entropy)}, fences ${signed(group.fences?.lower)} to ${signed(group.fences?.upper)}`],
              ["H", `${num(brief.entropy)} nats`],
              ["A", signed(brief.advantage)],
              ["A_E, A_S", `${signed(brief.episode_advantage)}, ${signed(brief.step_advantage)}`],
              ["reward, return", `${num(brief.reward)}, ${num(brief.return)}`],
              ["R_TA, P_TI", `${num(brief.r_ta)}, ${num(brief.p_ti)}`],
              ["log-probability", `${num(brief.logprob)} nats, ${counted(brief.tokens ?? 0, "token")}`],
              ["anchor", `${brief.anchor_group ?? "–"}, ${counted(brief.anchor_size ?? 0, "step")}`],
            ]}
          />
        </section>
      </div>
      <Failure error={error} />
      {full && (
        <div class="two">
          <section class="box"><h3>full prompt</h3><pre class="text" dir="auto" tabIndex={0}>{full.prompt}</pre></section>
          <section class="box"><h3>trajectory-blind prompt</h3><pre class="text" dir="auto" tabIndex={0}>{full.blind_prompt}</pre></section>
        </div>
      )}
    </>
  );
}
