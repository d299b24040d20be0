// Signs this browser in with a pasted token, and goes on to the page that was asked for.

const form = document.querySelector('#token');
const problem = form.querySelector('.problem');

form.addEventListener('submit', async (event) => {
	event.preventDefault();
	const input = form.querySelector('input');
	problem.textContent = '';
	try {
		const answer = await fetch('/api/v1/sessions', {
			method: 'POST',
			headers: { 'content-type': 'application/json' },
			body: JSON.stringify({ token: input.value }),
		});
		if (answer.ok) return location.replace(location.pathname === '/sign-in' ? location.href : '/');
		const { error } = await answer.json();
		problem.textContent = `${error.message}.`;
	} catch {
		problem.textContent = 'Control does not answer. Try again in a moment.';
	}
	input.select();
});
form.querySelector('button').disabled = false;
