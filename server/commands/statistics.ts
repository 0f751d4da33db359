// Figures that are kept up as values come, in memory that does not grow.

/** Welford's: mean and deviation in one pass. */
export const createMoments = () => {
  let count = 0
  let mean = 0
  let squares = 0
  let least = Number.POSITIVE_INFINITY
  let most = Number.NEGATIVE_INFINITY
  return {
    add: (value: number): void => {
      count++
      const from = value - mean
      mean += from / count
      squares += from * (value - mean)
      least = Math.min(least, value)
      most = Math.max(most, value)
    },
    count: () => count,
    /** The deviation is the sample's, null of one value. */
    values: () => ({
      count,
      mean,
      deviation: count > 1 ? Math.sqrt(squares / (count - 1)) : null,
      least,
      most,
    }),
  }
}

/** Pearson's coefficient of pairs as they come; null where one side does not vary. */
export const createCorrelation = () => {
  let count = 0
  let [meanX, meanY, squaresX, squaresY, products] = [0, 0, 0, 0, 0]
  return {
    add: (x: number, y: number): void => {
      count++
      const [fromX, fromY] = [x - meanX, y - meanY]
      meanX += fromX / count
      meanY += fromY / count
      squaresX += fromX * (x - meanX)
      squaresY += fromY * (y - meanY)
      products += fromX * (y - meanY)
    },
    count: () => count,
    value: (): number | null =>
      squaresX > 0 && squaresY > 0 ? products / Math.sqrt(squaresX * squaresY) : null,
  }
}
