// What may be set of a reward model's read-out.

import { z } from 'zod'

/** Which outputs have a name, and how they add up. Indices run over the head's outputs. */
export const RewardSettings = z.strictObject({
  /** The outputs are the logits of these vocabulary ids: of checkpoints that are stored as language models. */
  rows: z.array(z.int().min(0)).min(1).max(1024).optional(),
  /**
   * A last turn of the user that asks about the answer; the scores are read where its reply would begin.
   * `{principle}` stands for what the request gives by that name.
   */
  question: z.string().min(1).optional(),
  /**
   * It writes what it thinks of answers, which are shown as messages of the roles response_1 and response_2;
   * how it does so unless a request says otherwise. It has no outputs.
   */
  judge: z
    .strictObject({
      temperature: z.number().min(0).max(2),
      top_p: z.number().gt(0).max(1),
      max_tokens: z.int().min(1),
    })
    .optional(),
  /** Outputs by name. Absent: the checkpoint's own labels, when it has several. */
  attributes: z.record(z.string().min(1), z.int().min(0)).optional(),
  /** The reward is the sum of weight times score: by attribute, or a list with one an output. */
  weights: z
    .union([z.record(z.string().min(1), z.number()), z.array(z.number()).min(1)])
    .optional(),
})
export type RewardSettings = z.output<typeof RewardSettings>
