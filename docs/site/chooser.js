// SPDX-License-Identifier: GPL-2.0-or-later
'use strict';

// The chooser shows what scripts/site wrote into the page: of each source of
// QEMU its steps, and of each version what stands for {names} in these. The
// choice is in the address, as #from=debian&version=trixie, so it can be sent
// to somebody.

(() => {
    const data = JSON.parse(document.getElementById('data').textContent);
    const from = document.getElementById('from');
    const version = document.getElementById('version');
    const answer = document.getElementById('answer');

    const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

    const add = (parent, tag, text, name) => {
        const made = document.createElement(tag);
        if (name) made.className = name;
        // What is between backticks is code, as in Markdown
        (text || '').split('`').forEach((part, i) => {
            if (i % 2) add(made, 'code', part); else made.append(part);
        });
        parent.append(made);
        return made;
    };

    const source = () => data.sources.find(one => one.id === from.value);
    const versions = one => one.lists.flatMap(name => data.lists[name]);

    const select = (list, entries, first) => {
        list.replaceChildren(new Option(first, ''));
        for (const entry of entries) list.add(new Option(entry.name, entry.id));
    };

    function addCommand(parent, command) {
        const row = add(parent, 'div', '', 'command');
        const code = document.createElement('code');
        command.split(' ').forEach((word, i) => {
            if (i) code.append(' ');
            add(code, 'span').textContent = word;
        });
        const pre = add(row, 'pre');
        pre.append(code);
        const button = add(row, 'button', 'Copy');
        button.type = 'button';
        button.addEventListener('click', async () => {
            try {
                await navigator.clipboard.writeText(command);
                button.textContent = 'Copied';
            } catch {
                // Some browsers refuse this to a page that is a file
                getSelection().selectAllChildren(code);
                button.textContent = 'Selected';
            }
            setTimeout(() => { button.textContent = 'Copy'; }, 1500);
        });
    }

    function addSteps(parent, steps, values) {
        const list = add(parent, 'ol');
        for (const step of steps) {
            const item = add(list, 'li');
            add(item, 'p', fill(step.say, values));
            addCommand(item, fill(step.run, values));
        }
    }

    function show() {
        answer.replaceChildren();
        const one = source();
        const values = one && versions(one).find(entry => entry.id === version.value);
        if (!values) return;
        if (values.why) add(answer, 'p', fill(values.why, values), 'why');
        const steps = values.steps || (values.why ? [] : one.steps);
        if (steps.length) {
            add(answer, 'p', 'In a copy of this repository:');
            addSteps(answer, steps, values);
        }
        if (!values.why) for (const note of one.notes) add(answer, 'p', fill(note, values), 'note');
        if (values.option) {
            const hint = add(answer, 'div', '', 'option');
            add(hint, 'p', data.option.say);
            addCommand(hint, data.option.run);
        }
    }

    function showVersions() {
        select(version, source() ? versions(source()) : [], 'choose …');
        version.disabled = !source();
    }

    // A fold around what a link leads to has to be open
    function unfold() {
        const found = document.getElementById(decodeURIComponent(location.hash.slice(1)));
        if (!found) return;
        for (let fold = found.closest('details'); fold; fold = fold.parentElement.closest('details')) {
            fold.open = true;
        }
        found.scrollIntoView();
    }

    function followAddress() {
        const wanted = new URLSearchParams(location.hash.slice(1));
        if (!wanted.has('from')) {
            unfold();
            return;
        }
        from.value = wanted.get('from');
        showVersions();
        version.value = wanted.get('version') || '';
        show();
        document.getElementById('choose').scrollIntoView();
    }

    function keepAddress() {
        const chosen = new URLSearchParams({from: from.value, version: version.value});
        history.replaceState(null, '', `#${chosen}`);
    }

    select(from, data.sources, 'choose …');
    showVersions();
    from.addEventListener('change', () => { showVersions(); show(); keepAddress(); });
    version.addEventListener('change', () => { show(); keepAddress(); });
    document.getElementById('chooser').hidden = false;

    const button = document.getElementById('unfold');
    button.hidden = false;
    button.addEventListener('click', () => {
        const open = !document.querySelector('details.page[open]');
        for (const fold of document.querySelectorAll('details.page')) fold.open = open;
        button.textContent = open ? 'Fold everything' : 'Unfold everything';
    });

    addEventListener('hashchange', followAddress);
    // A link to where the address is already changes no address
    document.addEventListener('click', event => {
        const link = event.target.closest('a');
        if (link && link.getAttribute('href') === location.hash) unfold();
    });
    followAddress();
})();
