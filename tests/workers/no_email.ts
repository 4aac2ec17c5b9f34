// workerd by itself has no cloudflare:email, which agents imports; no test sends mail.
export class EmailMessage {}
