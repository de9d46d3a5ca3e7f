// The members of a group side by side.
import { useState } from "preact/hooks";
import { counted, signed } from "./format";
import { IterationNav } from "./iteration";
import { Badges, Key, outcome } from "./parts";
import { toStep } from "./route";
import type { Group, RunPage } from "./types";

export function GroupView({ page, iteration, group }: { page: RunPage; iteration: number; group: Group }) {
  const [marked, setMarked] = useState<number | null>(null);
  return (
    <>
      <IterationNav page={page} iteration={iteration} />
      <h2 dir="auto">{group.goal}</h2>
      <p class="small soft">{group.task_type} · {group.task_id}</p>
      <Key />
      <div class="members" tabIndex={0} role="region" aria-label="members side by side">
        {group.members.map((member) => (
          <section key={member.member} class="box member">
            <h3>Member {member.member}: <span class={member.won ? "yes" : "no"}>{outcome(member)}</span></h3>
            <p class="small soft">{counted(member.steps.length, "step")}, score {member.score ?? "–"}</p>
            <ol class="brief">
              {member.steps.map((step, i) => (
                <li
                  key={i}
                  class={`${step.outlier ?? ""}${marked !== null && marked === step.anchor_group ? " same" : ""}`}
                  onMouseEnter={() => setMarked(step.anchor_group)}
                  onMouseLeave={() => setMarked(null)}
                >
                  <p class="obs" dir="auto">{step.observation}</p>
                  <a class="act" dir="auto" href={toStep(page.name, iteration, group.group, member.member, i)}>&gt; {step.action || "(no action)"}</a>
                  <div class="small soft">A {signed(step.advantage)} · H_n {signed(step.normalized_entropy)} <Badges step={step} /></div>
                </li>
              ))}
            </ol>
          </section>
        ))}
      </div>
    </>
  );
}
