// What may be set of a reward model's read-out.

import { z } from 'zod'

/** Which outputs have a name, and how they add up. Indices run over the head's outputs. */
export const RewardSettings = z.strictObject({
  /** Outputs by name. Absent: the checkpoint's own labels, when it has several. */
  attributes: z.record(z.string().min(1), z.int().min(0)).optional(),
  /** The reward is the sum of weight times score: by attribute, or a list with one an output. */
  weights: z
    .union([z.record(z.string().min(1), z.number()), z.array(z.number()).min(1)])
    .optional(),
})
export type RewardSettings = z.output<typeof RewardSettings>
