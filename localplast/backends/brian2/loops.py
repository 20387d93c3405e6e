"""Loops of our own for Brian2's C++ programs, with the same results as Brian2's.

Along the rows of the weight matrix: Brian2 loops over synapses and looks up the number of each postsynaptic neuron,
which keeps the compiler from vectorising. Synapses are made row by row here, so that runs of synapses of one
presynaptic neuron end on neurons with consecutive numbers: within such a *piece* the number is a sum, and everything is
read in order.

At rest: what holds the state between two trials does nothing in all other steps.

Thresholds: few neurons spike in a step. Whether any of some neurons does can be asked of all at once; only those are
asked one by one.
"""

from brian2.devices.cpp_standalone.codeobject import CPPStandaloneCodeObject
from brian2.devices.device import all_devices, get_device
from jinja2 import ChoiceLoader, DictLoader

__all__ = ["RestCodeObject", "by_rows", "few_spikes", "in_cpp"]

#: Takes the place of Brian2's ``stateupdate.cpp``. Where pieces are short (sparse random networks), it is Brian2's
#: loop.
ROWS = """
{# USES_VARIABLES { N, _synaptic_pre, _synaptic_post } #}
{# ALLOWS_SCALAR_WRITE #}
{% extends 'common_group.cpp' %}

{% block maincode %}
    {% set code = vector_code if vector_code is string else vector_code|join('\\n') %}
    // scalar code
    const size_t _vectorisation_idx = -1;
    {{scalar_code|autoindent}}

    const int _N = {{constant_or_scalar('N', variables['N'])}};
    struct _Piece { int first, length, pre, post; };
    static std::vector<_Piece> _pieces;
    if (_pieces.empty())
        for (int _s=0; _s<_N; _s++)
        {
            if (_s > 0 && {{_synaptic_pre}}[_s] == {{_synaptic_pre}}[_s - 1]
                       && {{_synaptic_post}}[_s] == {{_synaptic_post}}[_s - 1] + 1)
                _pieces.back().length++;
            else
                _pieces.push_back({_s, 1, (int){{_synaptic_pre}}[_s], (int){{_synaptic_post}}[_s]});
        }
    if (_pieces.size()*8 < (size_t)_N)
    {
        for (const _Piece _piece : _pieces)
        {
            #pragma GCC ivdep
            for(int _k=0; _k<_piece.length; _k++)
            {
                const int _idx = _piece.first + _k;
                const size_t _vectorisation_idx = _idx;
                {{code|replace(_synaptic_post ~ '[_idx]', '(_piece.post + _k)')|replace(_synaptic_pre ~ '[_idx]', '_piece.pre')|autoindent}}
            }
        }
    }
    else
    {
        for(int _idx=0; _idx<_N; _idx++)
        {
            const size_t _vectorisation_idx = _idx;
            {{code|autoindent}}
        }
    }
{% endblock %}
"""


#: As Brian2's ``stateupdate.cpp``, in the steps that :attr:`~localplast.backends.brian2.timing.Block.held` tells of.
REST = """
{# USES_VARIABLES { N, t_in_timesteps, _period, _steps } #}
{# ALLOWS_SCALAR_WRITE #}
{% extends 'common_group.cpp' %}

{% block maincode %}
    const int64_t _step = {{t_in_timesteps}} % {{_period}};
    if (_step > 0 && _step < {{_steps}})
        return;
    const size_t _vectorisation_idx = -1;
    {{scalar_code|autoindent}}
    const int _N = {{constant_or_scalar('N', variables['N'])}};
    for(int _idx=0; _idx<_N; _idx++)
    {
        const size_t _vectorisation_idx = _idx;
        {{vector_code|autoindent}}
    }
{% endblock %}
"""

#: Takes the place of Brian2's ``threshold.cpp``. A condition that draws random numbers is asked once, as there.
THRESHOLD = """
{# USES_VARIABLES { N } #}
{% extends 'common_group.cpp' %}

{% block maincode %}
    {% set _eventspace = get_array_name(eventspace_variable) %}
    {% set _drawn = variables.values()|selectattr('stateless', 'defined')|rejectattr('stateless')|list %}
    const size_t _vectorisation_idx = -1;
    {{scalar_code|autoindent}}
    const int _N = {{constant_or_scalar('N', variables['N'])}};
    long _count = 0;
    for(int _first=0; _first<_N; _first+=64)
    {
        const int _end = _first + 64 < _N ? _first + 64 : _N;
        {% if not _drawn %}
        int _any = 0;
        for(int _idx=_first; _idx<_end; _idx++)
        {
            const size_t _vectorisation_idx = _idx;
            {{vector_code|autoindent}}
            _any |= _cond;
        }
        if (!_any)
            continue;
        {% endif %}
        for(int _idx=_first; _idx<_end; _idx++)
        {
            const size_t _vectorisation_idx = _idx;
            {{vector_code|autoindent}}
            if (_cond)
            {
                {{_eventspace}}[_count++] = _idx;
                {% if _uses_refractory %}
                {{not_refractory}}[_idx] = false;
                {{lastspike}}[_idx] = {{t}};
                {% endif %}
            }
        }
    }
    {{_eventspace}}[_N] = _count;
{% endblock %}

{% block after_code %}
{{get_array_name(eventspace_variable)}}[N] = 0;
{% endblock %}
"""


def loop(name, template):
    """Brian2's C++ code object with another loop in place of that of a name."""
    templater = CPPStandaloneCodeObject.templater.derive("brian2.devices.cpp_standalone")
    templater.env.loader = ChoiceLoader([DictLoader({name: template}), templater.env.loader])
    return type("LoopCodeObject", (CPPStandaloneCodeObject,), {"templater": templater})


RowCodeObject, RestCodeObject = loop("stateupdate.cpp", ROWS), loop("stateupdate.cpp", REST)
ThresholdCodeObject = loop("threshold.cpp", THRESHOLD)


def in_cpp():
    """Whether a C++ program is being made."""
    return get_device() is all_devices["cpp_standalone"]


def by_rows():
    """The ``codeobj_class`` for statements that run on every synapse; None (Brian2's own) outside C++ programs."""
    return RowCodeObject if in_cpp() else None


def few_spikes():
    """As :func:`by_rows`, for a group of neurons."""
    return ThresholdCodeObject if in_cpp() else None
