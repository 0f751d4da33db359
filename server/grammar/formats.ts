// The formats of texts that are served, as regular expressions that match whole texts. Each admits only
// what its standard and the usual checkers admit; some admit less (as internationalised names).

const YEAR = '([0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})'
const LEAP = '([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)'
const DATE = `((${YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8])))|${LEAP}-02-29)`
const TIME = '([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?'
const OFFSET = '(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])'
const BYTE = '(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])'
// Six labels of 39: the 253 characters that a name may have are never passed. No two hyphens together:
// they say that a name is of another script, and then it has rules that no pattern knows.
const LABEL = '[A-Za-z0-9](-?[A-Za-z0-9]){0,19}'
const HOST = `${LABEL}(\\.${LABEL}){0,5}`
const SHORT_LABEL = '[A-Za-z0-9]+(-[A-Za-z0-9]+)*'
const GROUP = '[0-9A-Fa-f]{1,4}'
const IPV6 = [
  `(${GROUP}:){7}${GROUP}`,
  ...Array.from({ length: 7 }, (_, left) => {
    const right = 6 - left
    const before = left === 0 ? '' : `${GROUP}(:${GROUP}){0,${left - 1}}`
    return `${before}::${right === 0 ? '' : `(${GROUP}(:${GROUP}){0,${right - 1}})?`}`
  }),
].join('|')
const ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
const SEGMENT = "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
const duration = (count: string): string => {
  const days = `(${count}Y(${count}M(${count}D)?)?|${count}M(${count}D)?|${count}D)`
  const hours = `(${count}H(${count}M(${count}S)?)?|${count}M(${count}S)?|${count}S)`
  return `P(${days}(T${hours})?|T${hours}|${count}W)`
}

export const FORMATS: ReadonlyMap<string, string> = new Map([
  ['date', DATE],
  ['time', `${TIME}${OFFSET}`],
  ['date-time', `${DATE}T${TIME}${OFFSET}`],
  ['duration', duration('[0-9]{1,9}')],
  ['email', `${ATOM}{1,32}(\\.${ATOM}{1,30})?@${LABEL}(\\.${LABEL}){1,3}`],
  ['hostname', HOST],
  ['ipv4', `(${BYTE}\\.){3}${BYTE}`],
  ['ipv6', IPV6],
  ['uuid', '[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}'],
  [
    'uri',
    `[A-Za-z][A-Za-z0-9+.-]{1,15}://${HOST}(:[1-9][0-9]{0,3})?(/${SEGMENT}{0,60}){0,6}(\\?(${SEGMENT}|/){0,200})?(#${SEGMENT}{0,60})?`,
  ],
])

/** Texts that are shorter than this have other forms of some formats, which count nothing. */
export const SHORT = 60
export const SHORT_FORMATS: ReadonlyMap<string, string> = new Map([
  ['duration', duration('[0-9]+')],
  ['email', `${ATOM}+(\\.${ATOM}+)*@${SHORT_LABEL}(\\.${SHORT_LABEL})+`],
  ['hostname', `${SHORT_LABEL}(\\.${SHORT_LABEL})*`],
  [
    'uri',
    `[A-Za-z][A-Za-z0-9+.-]+://${SHORT_LABEL}(\\.${SHORT_LABEL})*(/${SEGMENT}*)*(\\?(${SEGMENT}|/)*)?(#${SEGMENT}*)?`,
  ],
])
