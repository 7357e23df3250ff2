"""The template of the page of a run, in Jinja2. What it is given, `kvlib.lab.report.index` says."""

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>kvlib: results</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto 4rem; padding: 0 1.25rem;
  color: #1d2329; background: #fff }
h1 { margin: 1.5rem 0 .25rem } h2 { margin: 2.5rem 0 .75rem; border-bottom: 2px solid #d7dce1 } h3 { margin: 0 }
a { color: #0b5394 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: 1rem 0 }
dt { color: #55606b } dd { margin: 0; overflow-wrap: anywhere }
.run { border: 1px solid #d7dce1; border-left: .4rem solid #8a949e; border-radius: .3rem; padding: .75rem 1rem;
  margin: .75rem 0 }
.run.PASS { border-left-color: #006b4f } .run.WARN { border-left-color: #c98a00 } .run.FAIL { border-left-color: #b00020 }
.run p { margin: .4rem 0; max-width: 62rem } .conclusion { white-space: pre-line } .links, .counts { color: #55606b }
.problem { color: #b00020; font-weight: bold; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% } td { overflow-wrap: anywhere }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid #e4e8eb }
th { background: #f3f5f7 } tr.notebook th { background: none; padding-top: 1.1rem }
td.id, td.verdict { white-space: nowrap; overflow-wrap: normal }
td.PASS { color: #006b4f } td.FAIL { color: #b00020; font-weight: bold } td.WARN { color: #8a5a00; font-weight: bold }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: 1.5rem 2rem }
figure { margin: 0 } img { max-width: 100%; border: 1px solid #e4e8eb } figcaption { font-size: .9em; color: #3c464f }
details { margin: .3rem 0 } summary { cursor: pointer }
</style>
{% macro link(text, target) -%}
{% if target %}<a href="{{ target }}">{{ text }}</a>{% else %}no {{ text }}{% endif %}
{%- endmacro %}
<h1>Results of kvlib</h1>
{% if runs %}
<dl>
{% for name, values in facts.items() %}
<dt>{{ name }}</dt><dd>{{ values | join("; ") }}</dd>
{% endfor %}
<dt>notebooks</dt>
<dd>{{ runs | length }}{% if unfinished %}, of which {{ unfinished }} did not finish with a report{% endif %}</dd>
<dt>criteria</dt><dd>{{ counts }}</dd>
</dl>
{% else %}
<p>Nothing has been run yet. <code>make workbook</code> runs all notebooks, in a quarter of an hour on two CPU cores.
After you have run notebooks in JupyterLab, <code>.venv/bin/kvlib page</code> writes this page again.</p>
{% endif %}
{% if runs %}
<h2>Conclusions</h2>
{% for run in runs %}
<div class="run {{ run.verdict }}">
<h3>{{ run.name }}{% if run.title %}: {{ run.title }}{% endif %}</h3>
{% if run.problem %}
<p class="problem">{{ run.problem }}</p>
{% endif %}
{% if run.conclusion %}
<p class="conclusion">{{ run.conclusion }}</p>
{% endif %}
<p class="links">{% if run.criteria %}{{ run.counts }}. {% endif %}
{% for text, target in run.links.items() %}
{{ link(text, target) }}{{ "," if not loop.last }}
{% endfor %}
</p>
</div>
{% endfor %}
{% endif %}
{% if unreadable %}
<h2>Unreadable files</h2>
<ul>
{% for file, error in unreadable.items() %}<li><b>{{ file }}</b>: {{ error }}</li>
{% endfor %}
</ul>
{% endif %}
<h2>Criteria</h2>
{% if criteria %}
<p>FAIL: the run showed that the criterion does not hold. WARN: the run cannot tell, mostly because its sample is small.</p>
<table>
<tr><th>id</th><th>verdict</th><th>criterion</th><th>measured</th></tr>
{% for group in criteria | groupby("notebook") %}
<tr class="notebook"><th colspan="4">{{ group.grouper }}</th></tr>
{% for row in group.list %}
<tr><td class="id">{{ row.id }}</td><td class="verdict {{ row.verdict }}">{{ row.verdict }}</td>
<td>{{ row.description }}</td><td>{{ row.measured }}</td></tr>
{% endfor %}
{% endfor %}
</table>
{% else %}
<p>No criterion was judged.</p>
{% endif %}
<h2>Figures</h2>
<div class="figures">
{% for figure in figures %}
<figure>
{% if figure.image %}
<a href="{{ figure.image }}"><img src="{{ figure.pixels }}" alt="{{ figure.caption }}"></a>
{% else %}
no picture
{% endif %}
<figcaption><b>{{ figure.name }}</b> {{ figure.caption }} ({{ link("data", figure.data) }})</figcaption>
</figure>
{% else %}
<p>No figure was drawn.</p>
{% endfor %}
</div>
{% if runs %}
<h2>What each run was made with</h2>
{% for run in runs if run.made_with %}
<details><summary>{{ run.name }}</summary>
<dl>
{% for name, value in run.made_with.items() %}
<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
</details>
{% endfor %}
{% endif %}
</html>
"""
