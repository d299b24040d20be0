// Shows a signed-in person which command asks for a token, and tells control what they decide.

const ROLES = ['viewer', 'deployer', 'admin'];
const at = (id) => document.querySelector(`#${id}`);

let code = new URLSearchParams(location.search).get('code') ?? '';

async function ask(path, body) {
	const options = body && { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
	const answer = await fetch(path, options).catch(() => null);
	if (answer?.ok) return answer.json();
	const error = answer ? (await answer.json()).error : { message: 'control does not answer', hint: 'try again in a moment' };
	throw new Error(`${error.message}${error.hint ? `: ${error.hint}` : ''}.`);
}

function showOnly(id) {
	for (const form of [at('find'), at('ask')]) form.hidden = form.id !== id;
}

async function show() {
	at('problem').textContent = '';
	if (code === '') {
		showOnly('find');
		return at('code').focus();
	}
	try {
		const [wanted, { token }] = await Promise.all([ask(`/api/v1/sign-ins/${encodeURIComponent(code)}`), ask('/api/v1/whoami')]);
		at('shown').textContent = wanted.code;
		at('machine').textContent = wanted.machine;
		at('address').textContent = wanted.address;
		at('you').textContent = `${token.name} (${token.role})`;
		const roles = ROLES.slice(0, ROLES.indexOf(token.role) + 1).reverse();
		at('role').replaceChildren(...roles.map((role) => new Option(role, role)));
		showOnly('ask');
	} catch (error) {
		fail(error);
	}
}

function fail(error) {
	at('problem').textContent = error.message;
	showOnly('find');
	at('code').value = code;
	at('code').select();
}

async function decide(allow) {
	for (const button of document.querySelectorAll('#ask button')) button.disabled = true;
	try {
		const { name } = await ask(`/api/v1/sign-ins/${encodeURIComponent(code)}`, { allow, role: at('role').value });
		at('done').textContent = allow
			? `Allowed as “${name}”. Go on in your terminal; this page may be closed.`
			: `Denied: ${name} gets nothing.`;
		at('done').className = allow ? 'mark good' : 'mark quiet';
		showOnly('');
	} catch (error) {
		fail(error);
	}
	for (const button of document.querySelectorAll('#ask button')) button.disabled = false;
}

at('find').addEventListener('submit', (event) => {
	event.preventDefault();
	code = at('code').value;
	void show();
});
at('ask').addEventListener('submit', (event) => {
	event.preventDefault();
	void decide(true);
});
at('deny').addEventListener('click', () => void decide(false));

void show();
